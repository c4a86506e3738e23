// Inside the frame that embed.js makes: <kwaai-node> of this origin, told by the address's fragment what the host asked.
// Rule of the file: the host hears the frame's height and the node's state, no more.

import { KwaaiNodeElement } from './define.ts'
import type { NodeOptions } from './node.ts'

const MEGABYTE = 1e6

const asked = new URLSearchParams(location.hash.slice(1))
const element = new KwaaiNodeElement()
for (const name of ['model', 'blocks', 'theme'] as const) {
  const value = asked.get(name)
  if (value !== null) element[name] = value
}
const [cpu, memory, storage] = ['cpu', 'memory', 'storage'].map(name => Number(asked.get(name)))
element.limits = {
  ...(cpu ? { duty: Math.min(cpu, 100) / 100 } : {}),
  ...(memory ? { memoryBytes: Math.round(memory * MEGABYTE) } : {})
}
const backend = asked.get('backend')
element.options = {
  ...(backend === 'wasm' || backend === 'webgpu' ? { backend } : {}),
  ...(storage ? { cacheBytes: Math.round(storage * MEGABYTE) } : {})
} satisfies Partial<NodeOptions>
const sheet = new CSSStyleSheet() // a style element would need a hole in the frame's policy
sheet.replaceSync('body { margin: 0 }')
document.adoptedStyleSheets = [sheet]
document.body.append(element)

new ResizeObserver(() => {
  parent.postMessage({ kwaainet: 'height', height: document.documentElement.offsetHeight }, '*')
}).observe(document.documentElement)
element.addEventListener('kwaai-state', ({ detail: { state } }) => { parent.postMessage({ kwaainet: 'state', state }, '*') })
