// What keeps this tab at full speed while it contributes, as far as browsers allow and its owner wishes.
//
// A hidden page's own timers run once a second, after five minutes once a minute; its workers, which do all the work here,
// keep theirs. What stops them is freezing: Chromium freezes hidden pages that compute under Energy Saver, but none
// with an open WebRTC data channel (developer.chrome.com/blog/freezing-on-energy-saver), so one to ourselves
// holds it off. Silent audio does not count as sound there, and a wake lock is let go when a page is hidden.
// Rule of the file: nothing is held that its owner did not ask for, and nothing longer than it contributes.

/** What its owner wishes: the screen on while the page is seen, no freezing while it is hidden. */
export interface Wishes { screen: boolean, unfrozen: boolean }

export class Awake {
  #screen: WakeLockSentinel | null = null
  #loop: (() => void) | null = null
  #turn: Promise<void> = Promise.resolve()

  /** Hold what is wished, and let go of the rest; called again whenever something may have changed. */
  async hold (wishes: Wishes): Promise<void> {
    this.#turn = this.#turn.then(async () => { await this.#hold(wishes) })
    await this.#turn
  }

  async #hold ({ screen, unfrozen }: Wishes): Promise<void> {
    if (!unfrozen) {
      this.#loop?.()
      this.#loop = null
    } else this.#loop ??= await openLoop().catch(() => null)
    const wanted = screen && !document.hidden && 'wakeLock' in navigator
    if (wanted && (this.#screen === null || this.#screen.released)) this.#screen = await navigator.wakeLock.request('screen').catch(() => null)
    else if (!wanted) {
      await this.#screen?.release()
      this.#screen = null
    }
  }
}

/** A data channel from this page to itself, open when this resolves with what closes it. */
export async function openLoop (): Promise<() => void> {
  const [one, other] = [new RTCPeerConnection(), new RTCPeerConnection()]
  const end = (): void => {
    one.close()
    other.close()
  }
  one.onicecandidate = ({ candidate }) => { void other.addIceCandidate(candidate ?? undefined).catch(() => {}) }
  other.onicecandidate = ({ candidate }) => { void one.addIceCandidate(candidate ?? undefined).catch(() => {}) }
  const channel = one.createDataChannel('awake')
  const opened = new Promise<void>((resolve, reject) => {
    channel.onopen = () => { resolve() }
    setTimeout(() => { reject(new DOMException('', 'TimeoutError')) }, 10_000)
  })
  try {
    await one.setLocalDescription()
    await other.setRemoteDescription(one.localDescription as RTCSessionDescription)
    await other.setLocalDescription()
    await one.setRemoteDescription(other.localDescription as RTCSessionDescription)
    await opened
  } catch (error) {
    end()
    throw error
  }
  return end
}
