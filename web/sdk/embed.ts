// The one-line embed: <script src="https://relay/embed.js" data-…></script> puts a frame of the relay's origin where it
// stands. All else runs in there: the host page can neither read keys nor be slowed, and needs no COOP or COEP.
// Rule of the file: a classic script that leaves no name behind; what it cannot do for an attribute it says once.

interface Told { kwaainet: 'height', height: number }

const IGNORED: Record<string, string> = {
  privacyCompliant: 'no law is attested by an attribute; nothing runs or is stored before the visitor consents, and there is no tracking',
  rewardSplit: 'contributing is not paid',
  greenBonus: 'where a device\'s power comes from is not known, so there is no bonus'
}
const KNOWN = ['model', 'blocks', 'theme', 'backend', 'services', 'maxResources']

function embed (script: HTMLScriptElement): void {
  const relay = new URL(script.src)
  const asked = new URLSearchParams()
  for (const [name, value = ''] of Object.entries(script.dataset)) {
    if (name === 'services') tellServices(value)
    else if (name === 'maxResources') for (const [limit, most] of resources(value)) asked.set(limit, most)
    else if (KNOWN.includes(name)) asked.set(name, value)
    else say(`data-${dashed(name)} has no effect: ${IGNORED[name] ?? 'there is no such attribute'}`)
  }
  const frame = document.createElement('iframe')
  frame.src = new URL(`/embed.html#${asked.toString()}`, relay).href
  frame.title = 'Contribute to KwaaiNet'
  frame.allow = 'cross-origin-isolated; battery'
  frame.style.cssText = 'border: 0; width: 100%; max-width: 32rem; height: 18rem'
  addEventListener('message', ({ source, data }: MessageEvent<Told | null>) => {
    if (source === frame.contentWindow && data?.kwaainet === 'height' && Number.isFinite(data.height)) frame.style.height = `${Math.min(data.height, 1000)}px`
  })
  script.after(frame)
}

/** `compute` is what a tab offers. */
function tellServices (value: string): void {
  const others = value.split(',').map(name => name.trim()).filter(name => name !== '' && name !== 'compute')
  if (others.length > 0) say(`data-services has no effect for ${others.join(', ')}: a tab offers compute only`)
}

/** `cpu:20,memory:1024,storage:5000`: percent and megabytes. */
function resources (value: string): Array<[string, string]> {
  return value.split(',').map(part => part.trim().split(':')).map(([name = '', most = '']): [string, string] => [name, most]).filter(([name, most]) => {
    const known = ['cpu', 'memory', 'storage'].includes(name) && Number(most) > 0
    if (!known) say(`data-max-resources "${name}:${most}" has no effect; give cpu:PERCENT, memory:MB, storage:MB`)
    return known
  })
}

function dashed (name: string): string {
  return name.replace(/[A-Z]/g, letter => `-${letter.toLowerCase()}`)
}

function say (text: string): void {
  console.info(`KwaaiNet: ${text}`)
}

if (document.currentScript instanceof HTMLScriptElement) embed(document.currentScript)
else console.error('KwaaiNet: embed.js is a classic script; leave type="module" out')

export {}
