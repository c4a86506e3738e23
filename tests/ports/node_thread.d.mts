export function launch (): unknown
