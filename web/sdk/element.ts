// <kwaai-node relay model theme>: a node with its own consent and controls, for any page or framework.
// Rule of the file: importing it defines nothing and touches no document (see define.ts); nothing runs or is stored
// before the visitor presses a button; a problem is shown and told, never thrown at the page.

/**
 * The class of `<kwaai-node>`, its attributes, events and words; importing it defines nothing.
 * @module kwaainet-web/element
 */

import type { Abortable } from './abort.ts'
import { clearCache, forgetIdentity } from './cache.ts'
import { consentUntil, giveConsent, withdrawConsent } from './consent.ts'
import { type Action, View, WORDS, type Words } from './element_view.ts'
import type { Limits, NodeEvents, NodeStatus } from './events.ts'
import { readLimits } from './limits.ts'
import { createNode, type KwaaiNode, type NodeOptions } from './node.ts'

const ATTRIBUTES = ['relay', 'model', 'blocks', 'theme'] as const
const PROPERTIES = ['limits', 'options', 'words'] as const
const EVENTS = ['state', 'progress', 'peer', 'work', 'receipt', 'error'] as const
const IDLE: NodeStatus = { state: 'idle', work: { sessions: 0, tokensDone: 0 }, peers: [], limits: {} }

// Where there is no document, as in server-side rendering, the class can be imported and is never constructed.
const Base = (globalThis.HTMLElement ?? class {}) as typeof HTMLElement

export { WORDS, type Words }

/** What JSX and templates may give the element; see the guide for the line that tells a framework's types of it. */
export type ElementAttributes = Partial<Pick<KwaaiNodeElement, 'relay' | 'model' | 'blocks' | 'theme' | 'limits' | 'options' | 'words'>> &
  { [Name in keyof ElementEvents as `on${Name}`]?: (event: ElementEvents[Name]) => void }

/** The events of the element: those of its node, bubbling and composed, as `kwaai-state` and so on. */
export type ElementEvents = { [Name in keyof NodeEvents as `kwaai-${Name}`]: CustomEvent<NodeEvents[Name]> }

/**
 * The element. Attributes `relay`, `model`, `blocks` and `theme` (light, dark; else the page's) are properties as well,
 * read when the node starts. CSS parts: panel, about, state, progress, problem, buttons, button and each button's own
 * name. Custom properties: --kwaai-font, -color, -background, -border, -radius, -padding, -accent, -problem.
 */
export class KwaaiNodeElement extends Base {
  static readonly observedAttributes = [...ATTRIBUTES]

  #view: View | null = null
  #node: KwaaiNode | null = null
  #limits: Limits = {}
  #options: Partial<NodeOptions> = {}
  #words: Words = WORDS

  /** The relay's address, as the attribute; the page's own origin without it. */
  get relay (): string { return this.getAttribute('relay') ?? globalThis.location.origin }
  set relay (value: string) { this.setAttribute('relay', value) }

  /** The model to serve, as the attribute; empty: the one the relay offers. */
  get model (): string { return this.getAttribute('model') ?? '' }
  set model (value: string) { this.setAttribute('model', value) }

  /** START:END or auto:COUNT, as the attribute; empty: all. */
  get blocks (): string { return this.getAttribute('blocks') ?? '' }
  set blocks (value: string) { this.setAttribute('blocks', value) }

  /** light or dark, as the attribute; empty: as the page. */
  get theme (): string { return this.getAttribute('theme') ?? '' }
  set theme (value: string) { this.setAttribute('theme', value) }

  /** What the node may use, with effect at once. Throws a TypeError for what makes no sense. */
  get limits (): Limits { return this.#limits }
  set limits (limits: Limits) {
    const checked = readLimits({}, limits)
    this.#node?.setLimits(limits)
    this.#limits = checked
  }

  /** What else `createNode` takes, read when the node starts. */
  get options (): Partial<NodeOptions> { return this.#options }
  set options (options: Partial<NodeOptions>) { this.#options = { ...options } }

  /** The texts shown; those not given stay English. */
  get words (): Words { return this.#words }
  set words (words: Partial<Words>) {
    this.#words = { ...WORDS, ...words }
    this.#show()
  }

  /** Until when the visitor has consented to contribute to this relay, or null. */
  get consent (): Date | null { return consentUntil(this.#relayOrigin()) }

  /** How its node is doing. */
  status (): NodeStatus { return this.#node?.status() ?? IDLE }

  /** Begin, if the visitor has consented before; else an Error says so. As `KwaaiNode.start`. */
  async start (options: Abortable = {}): Promise<void> {
    if (this.consent === null) throw new Error('the visitor has not consented; the button of <kwaai-node> asks')
    await this.#start(options)
  }

  /** As `KwaaiNode.pause`. */
  pause (): void { this.#node?.pause() }
  /** As `KwaaiNode.resume`. */
  resume (): void { this.#node?.resume() }
  /** As `KwaaiNode.finish`. */
  async finish (options: Abortable & { within?: number } = {}): Promise<void> { await this.#node?.finish(options) }
  /** As `KwaaiNode.stop`. */
  async stop (options: Abortable = {}): Promise<void> { await this.#node?.stop(options) }

  /** Forget the consent, stop, and delete weights and identity; aborting `signal` hurries the stop and leaves what is not deleted yet. */
  async withdraw (options: Abortable = {}): Promise<void> {
    withdrawConsent(this.#relayOrigin())
    try {
      await this.stop(options)
      await Promise.all([clearCache({}, options), forgetIdentity(options)])
    } finally {
      this.#show()
    }
  }

  /** @internal */
  connectedCallback (): void {
    this.#view ??= new View(this, action => { this.#act(action) })
    this.#heedEarly()
    this.#show()
  }

  /** An element that is taken out stops; one that is only moved goes on. @internal */
  disconnectedCallback (): void {
    queueMicrotask(() => { if (!this.isConnected) void this.stop() })
  }

  /** @internal */
  attributeChangedCallback (): void { this.#show() }

  /** What was set before the element was defined hides the accessors of that name. */
  #heedEarly (): void {
    for (const name of [...ATTRIBUTES, ...PROPERTIES]) {
      if (!Object.hasOwn(this, name)) continue
      const value = this[name]
      delete (this as Partial<this>)[name]
      Object.assign(this, { [name]: value })
    }
  }

  #act (action: Action): void {
    if (action === 'start') {
      giveConsent(this.#relayOrigin())
      this.#start({}).catch(() => {}) // the state says why
    } else if (action === 'pause' || action === 'resume') this[action]()
    else this[action]().catch((error: unknown) => { this.#tell('error', error instanceof Error ? error : new Error(String(error))) })
  }

  async #start (options: Abortable): Promise<void> {
    const { relay, model, blocks } = this
    const node = createNode({ relay, ...(model === '' ? {} : { model }), ...(blocks === '' ? {} : { blocks }), ...this.#options, limits: this.#limits })
    for (const name of EVENTS) {
      node.addEventListener(name, ({ detail }) => {
        if (this.#node !== node) return
        if (name !== 'peer' && name !== 'receipt') this.#show()
        this.#tell(name, detail as NodeEvents[typeof name])
      })
    }
    this.#node = node
    await node.start(options)
  }

  #tell<Name extends keyof NodeEvents> (name: Name, detail: NodeEvents[Name]): void {
    this.dispatchEvent(new CustomEvent(`kwaai-${name}`, { detail, bubbles: true, composed: true }))
  }

  #show (): void {
    this.#view?.show(this.status(), this.#words, this.consent)
  }

  #relayOrigin (): string {
    return URL.canParse(this.relay, globalThis.location.href) ? new URL(this.relay, globalThis.location.href).origin : this.relay
  }
}

declare global {
  interface HTMLElementTagNameMap { 'kwaai-node': KwaaiNodeElement }
  interface HTMLElementEventMap extends ElementEvents {}
  interface DocumentEventMap extends ElementEvents {}
  interface WindowEventMap extends ElementEvents {}
}
