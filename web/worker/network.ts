// The network worker: the tab's libp2p peer, RPCs handed to the node worker over a MessagePort.

import { Channel } from '../bridge/channel.ts'
import { setClock } from '../bridge/clock.ts'
import { asFault, describe, FaultError } from '../bridge/faults.ts'
import { RelayedHost } from '../bridge/host.ts'
import { newSeed, takeIdentity } from '../bridge/identity.ts'
import { showLife } from '../bridge/life.ts'
import { nearness } from '../bridge/relay_node.ts'
import { attachRtc } from '../bridge/rtc_shim.ts'
import { Switchboard } from '../bridge/rpc.ts'
import { flushed, gatherSockets } from '../bridge/sockets.ts'
import type { NodeChannel } from '../bridge/streams.ts'
import type { NetworkToPage, PageToNetwork, StartNetwork } from './messages.ts'

let switchboard: Switchboard | null = null
let known: RelayedHost | null = null

function report (message: NetworkToPage): void {
  postMessage(message)
}

async function start ({ identity, relays, node, rtc, direct, ice_servers: iceServers, ahead, near_bits: bits }: StartNetwork): Promise<void> {
  await showLife()
  setClock(ahead)
  attachRtc(rtc)
  gatherSockets()
  const channel: NodeChannel = new Channel(node)
  const held = new Map<string, string[]>() // our addresses by relay
  const seed = await (identity === 'kept' ? takeIdentity : newSeed)(nearness(relays[0]!), bits)
  const host = await RelayedHost.create(seed, { relays, direct, iceServers }, {
    connection: (state, relay, addresses, reason) => {
      channel.post({ type: 'connection', state, relay, addresses, reason })
      if (state === 'reserved') held.set(relay, addresses)
      if (state === 'lost') held.delete(relay)
      const [left] = held.keys() // a page that is reached is not told that another relay is being asked
      if (left === undefined) report({ type: 'connection', state, relay, addresses, reason })
      else if (state !== 'connecting') report({ type: 'connection', state: 'reserved', relay: left, addresses: [...held.values()].flat(), reason })
    },
    peers: peers => { report({ type: 'peers', peers }) }
  })
  known = host
  switchboard = new Switchboard(channel, host)
  host.begin()
  report({ type: 'identity', peer_id: host.peerId })
  channel.post({ type: 'identity', peer_id: host.peerId })
}

addEventListener('message', ({ data }: MessageEvent<PageToNetwork>) => {
  if (data.type === 'bye') {
    switchboard?.bye(data.reason)
    const { said } = data
    if (said !== undefined) void flushed().then(() => Atomics.store(new Int32Array(said), 0, 1))
  } else if (data.type === 'relays') known?.know(data.relays)
  else {
    start(data).catch((error: unknown) => {
      const { fault, message } = asFault(error, 'ProtocolError')
      report({ type: 'failed', error: error instanceof FaultError ? fault : 'Error', message })
    })
  }
})

// A failure inside libp2p that nobody waits for ends one connection at most, so it does not end the worker.
addEventListener('unhandledrejection', event => {
  console.warn('network worker:', describe(event.reason))
  event.preventDefault()
})
addEventListener('error', event => {
  console.warn('network worker:', event.message)
  event.preventDefault()
})
