// A page for tests only: runs suites of kwaainet.testing, one at a time, in workers like those of a contributing tab.

import { hostRtc } from '../../../web/bridge/rtc.ts'

/** `hosts` peers are made for the suite; `backend` and `threads` are those of its engine, `cases` its models. */
interface Request { suite: string, relays: string[], hosts: number, backend?: string, threads?: number, cases?: string[] }

const node = new Worker(new URL('node.js', import.meta.url), { type: 'module' })

/** What became of each check, as JSON: {name: "passed" or a traceback}. */
async function run (request: Request): Promise<string> {
  const networks: Worker[] = []
  const ports: MessagePort[] = []
  for (let host = 0; host < request.hosts; host++) {
    const network = new Worker(new URL('network.js', import.meta.url), { type: 'module' })
    const rpc = new MessageChannel()
    const rtc = new MessageChannel()
    hostRtc(rtc.port1)
    network.postMessage({ relays: request.relays, node: rpc.port1, rtc: rtc.port2, direct: true, ice_servers: [] }, [rpc.port1, rtc.port2])
    networks.push(network)
    ports.push(rpc.port2)
  }
  try {
    return await new Promise((resolve, reject) => {
      for (const worker of [node, ...networks]) worker.onerror = event => { reject(new Error(event.message)) }
      node.onmessage = ({ data }: MessageEvent<{ outcomes?: string, error?: string }>) => {
        if (data.outcomes === undefined) reject(new Error(data.error))
        else resolve(data.outcomes)
      }
      node.postMessage({ ...request, origin: location.origin, ports }, ports)
    })
  } finally {
    for (const worker of networks) worker.terminate()
  }
}

Object.assign(globalThis, { run })
