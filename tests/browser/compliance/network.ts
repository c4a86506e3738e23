// As web/worker/network.ts, with an identity of this moment: two hosts of one page must be two peers.

import { Channel } from '../../../web/bridge/channel.ts'
import { RelayedHost } from '../../../web/bridge/host.ts'
import { Switchboard } from '../../../web/bridge/rpc.ts'
import { attachRtc } from '../../../web/bridge/rtc_shim.ts'
import type { NodeChannel } from '../../../web/bridge/streams.ts'
import type { StartNetwork } from '../../../web/worker/messages.ts'

addEventListener('message', ({ data }: MessageEvent<StartNetwork>) => { void start(data) })

async function start ({ relays, node, rtc, direct, ice_servers: iceServers }: StartNetwork): Promise<void> {
  attachRtc(rtc)
  const channel: NodeChannel = new Channel(node)
  const seed = crypto.getRandomValues(new Uint8Array(32))
  const host = await RelayedHost.create(seed, { relays, direct, iceServers }, {
    connection: (state, relay, addresses, reason) => { channel.post({ type: 'connection', state, relay, addresses, reason }) },
    peers: peers => { postMessage({ type: 'peers', peers }) }
  })
  new Switchboard(channel, host)
  channel.post({ type: 'identity', peer_id: host.peerId })
}
