// What went wrong, in the reader's words; what the machine said of it, in English, can be unfolded for who reports it.
// Rule of the file: text that came from outside stands under "Details" only, and as text.

import { made, problemIn, WORDS } from './words.ts'

/** `message` is of the SDK or the Python side; null: nothing is wrong. What is shown already is not said again. */
export function showProblem (box: HTMLElement, what: { code: string, values?: Readonly<Record<string, string>>, message: string } | null): void {
  const said = what === null ? '' : problemIn(what)
  box.hidden = what === null
  if (what !== null && box.dataset.code === what.code && box.lastChild?.lastChild?.textContent === what.message) return
  box.dataset.code = what?.code ?? ''
  if (what === null) box.replaceChildren()
  else box.replaceChildren(made('p', said), made('details', '', made('summary', WORDS.details), made('p', what.message)))
}
