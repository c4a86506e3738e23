// Words that change as things go on: all of them for the eye; for a screen reader those that are worth an interruption.
// Rule of the file: what is read out changes only when there is news.

import { element } from './words.ts'

/** Show `text` in `#id`, and have `heard` read out, which stands beside it unseen. */
export function tell (id: string, text: string, heard = text): void {
  for (const [where, words] of [[id, text], [`${id}-heard`, heard]] as const) {
    if (element(where).textContent !== words) element(where).textContent = words
  }
}
