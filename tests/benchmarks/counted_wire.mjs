// Counts what yamux, as the tab uses it, gives its connection for a step and its answer; for counted_tab.py.

import { yamux } from '@libp2p/yamux'
import { multiaddrConnectionPair } from '@libp2p/utils'
import { sparing } from '../../web/bridge/muxer.ts'

const SIZE = 2500 // bytes of a step
const WARM_UP = 5
const STEPS = 20

const connections = multiaddrConnectionPair()
let frames = 0
let bytes = 0
for (const connection of connections) {
  const send = connection.send.bind(connection)
  connection.send = data => {
    frames++
    bytes += data.byteLength
    return send(data)
  }
}
const factory = sparing(yamux({ enableKeepAlive: false }))()
const [client, server] = connections.map(connection => factory.createStreamMuxer(connection))
server.addEventListener('stream', ({ detail: stream }) => {
  stream.addEventListener('message', ({ data }) => { stream.send(data) })
})
const stream = await client.createStream()
let heard = 0
let wake = () => {}
stream.addEventListener('message', ({ data }) => {
  heard += data.byteLength
  wake()
})

for (let step = 1; step <= WARM_UP + STEPS; step++) {
  if (step === WARM_UP + 1) frames = bytes = 0
  stream.send(new Uint8Array(SIZE))
  while (heard < step * SIZE) await new Promise(resolve => { wake = resolve })
}
console.log(JSON.stringify({
  'frames of yamux for one step and its answer': frames / STEPS,
  'bytes of yamux for one step and its answer': bytes / STEPS
}))
