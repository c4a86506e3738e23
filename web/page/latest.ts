// Answers that may overtake each other: what was asked last is what stays on the page.

export class Latest {
  #asked = 0
  #shown = 0

  /** A question is asked; returns what tells, once its answer is there, whether none that was asked later is shown already. */
  ask (): () => boolean {
    const mine = ++this.#asked
    return () => {
      if (mine < this.#shown) return false
      this.#shown = mine
      return true
    }
  }
}
