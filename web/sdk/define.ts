// Importing this defines <kwaai-node>, once, where there are custom elements.

/**
 * Importing it defines `<kwaai-node>`.
 * @module kwaainet-web/define
 */

import { KwaaiNodeElement } from './element.ts'

if (globalThis.customElements !== undefined && customElements.get('kwaai-node') === undefined) {
  customElements.define('kwaai-node', KwaaiNodeElement)
}

export { KwaaiNodeElement }
