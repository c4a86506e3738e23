// What the parts of the page share: its elements, and words for what the SDK says.

export const KINDS: Record<string, string> = { relay: 'relay', circuit: 'through the relay', webrtc: 'direct (WebRTC)' }

export function element<T extends HTMLElement = HTMLElement> (id: string): T {
  const found = document.getElementById(id)
  if (found === null) throw new Error(`index.html has no #${id}`)
  return found as T
}

/** The end of a peer id, by which people tell peers apart. */
export function shortName (peer: string): string {
  return peer.length > 12 ? `…${peer.slice(-8)}` : peer
}
