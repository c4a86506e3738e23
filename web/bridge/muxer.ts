// A yamux that grants its peer more once half a window was used, as other implementations do: js-libp2p's grants after
// every frame, so that each step of a session is answered by window updates, encrypted and sent on every level.
// Rule of the file: only what yamux's classes make public is touched, each stream as it is made.

const STEP = 128 * 1024 // bytes received before they are granted anew: half of the least window there is

interface YamuxStream {
  readStatus: string
  handleData: (frame: { header: { length: number } }) => void
  sendWindowUpdate: () => void
}

interface Yamux {
  onCreateStream: (...options: any[]) => any
  onRemoteStream: (stream: any) => void
}

/** The factory of `make`, whose muxers' streams spare window updates. */
export function sparing<Factory extends { createStreamMuxer: (connection: any) => any }, Arguments extends any[]> (
  make: (...components: Arguments) => Factory
): (...components: Arguments) => Factory {
  return (...components) => {
    const factory = make(...components)
    const create = factory.createStreamMuxer.bind(factory)
    factory.createStreamMuxer = connection => spare(create(connection))
    return factory
  }
}

function spare<Muxer extends Yamux> (muxer: Muxer): Muxer {
  const { onCreateStream, onRemoteStream } = muxer
  muxer.onCreateStream = (...options) => spareStream(onCreateStream.apply(muxer, options))
  muxer.onRemoteStream = stream => { onRemoteStream.call(muxer, spareStream(stream)) }
  return muxer
}

/** The first update always goes: it opens the stream, or says that it is open. */
function spareStream<Stream extends YamuxStream> (stream: Stream): Stream {
  const { handleData, sendWindowUpdate } = stream
  let received = STEP
  stream.handleData = frame => {
    received += frame.header.length
    handleData.call(stream, frame)
  }
  stream.sendWindowUpdate = () => {
    if (received < STEP) return
    if (stream.readStatus !== 'paused') received = 0
    sendWindowUpdate.call(stream)
  }
  return stream
}
