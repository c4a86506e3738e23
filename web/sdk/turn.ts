// One tab of a browser serves at a time: whose turn it is, by a Web Lock, and who has it, by a BroadcastChannel.
// Rule of the file: nothing is held before `take`; whoever has the turn answers who asks, whoever waits gets it next.

import type { Elsewhere } from './events.ts'

const NAME = 'kwaainet-serving'

type Word = { ask: true } | { title: string, since: number, peerId?: string }

export class Turn {
  readonly #channel = new BroadcastChannel(NAME)
  readonly #end = new AbortController()
  readonly #since = Date.now()
  #release: () => void = () => {}
  #mine = false
  /** Ours, as soon as it is known: told to tabs that wait. */
  peerId: string | undefined

  /** Resolves when this tab may serve; `elsewhere` is told meanwhile who does. Rejects when given up. */
  async take (elsewhere: (who: Elsewhere) => void): Promise<void> {
    this.#channel.onmessage = ({ data }: MessageEvent<Word>) => {
      if ('ask' in data) this.#answer()
      else if (!this.#mine) elsewhere({ title: data.title, since: new Date(data.since), ...(data.peerId === undefined ? {} : { peerId: data.peerId }) })
    }
    if (await this.#request({ ifAvailable: true })) return
    elsewhere({ title: '', since: new Date() })
    this.#channel.postMessage({ ask: true } satisfies Word)
    await this.#request({ signal: this.#end.signal })
  }

  /** Give the turn up, or give up waiting for it. */
  end (): void {
    this.#end.abort(new DOMException('the node was stopped', 'AbortError'))
    this.#release()
    this.#mine = false
    this.#channel.close()
  }

  async #request (options: LockOptions): Promise<boolean> {
    return await new Promise((resolve, reject) => {
      navigator.locks.request(NAME, options, async lock => {
        this.#mine = lock !== null
        resolve(this.#mine)
        if (lock === null) return
        this.#answer()
        await new Promise<void>(release => {
          this.#release = release
          if (this.#end.signal.aborted) release()
        })
      }).catch(reject)
    })
  }

  #answer (): void {
    if (!this.#mine || this.#end.signal.aborted) return
    this.#channel.postMessage({ title: document.title, since: this.#since, ...(this.peerId === undefined ? {} : { peerId: this.peerId }) } satisfies Word)
  }
}
