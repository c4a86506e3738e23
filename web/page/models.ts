// Which of the relay's models this tab is to serve: chosen before the click, and changed while it serves by another click.

import type { Offered } from './consent.ts'
import { element, made, MODELS } from './words.ts'

export class ModelChoice {
  readonly #models: readonly Offered[]
  #chosen: string

  /** `wanted`: what was chosen before, if it is still there. `changed` hears of each choice. */
  constructor (models: readonly Offered[], wanted: string | undefined, changed: () => void) {
    this.#models = models
    this.#chosen = models.find(({ model }) => model === wanted)?.model ?? models[0]?.model ?? ''
    element('models').hidden = models.length < 2
    element('model-choices').replaceChildren(...models.map(({ model, blocks, bytes }, index) => {
      const input = Object.assign(made('input'), { type: 'radio', name: 'model', id: `model-${index}`, value: model, checked: model === this.#chosen })
      input.addEventListener('change', () => {
        this.#chosen = model
        changed()
      })
      const label = Object.assign(made('label', model), { htmlFor: input.id })
      const note = Object.assign(made('p', MODELS.size(blocks, bytes)), { className: 'hint', id: `${input.id}-hint` })
      input.setAttribute('aria-describedby', note.id)
      const row = made('div', '', input, made('div', '', label, note))
      row.className = 'choice'
      return row
    }))
  }

  get chosen (): Offered | undefined {
    return this.#models.find(({ model }) => model === this.#chosen)
  }

  /** The button that changes a running node's model: there while another is chosen than `serving` (empty: the first). */
  show (serving: string | null): void {
    const button = element('switch')
    const now = serving === '' ? this.#models[0]?.model ?? this.#chosen : serving
    button.hidden = now === null || now === this.#chosen
    button.textContent = MODELS.change(this.#chosen)
  }
}
