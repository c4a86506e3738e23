// The client worker: boots Python with the chat's client and hands it what only JavaScript can do.
// Rule of the file: no Python in strings, no decisions of the client.

import type { PyProxy } from 'pyodide/ffi'
import { bootPython } from './boot.ts'
import type { ClientConfig, ClientToPage, PageToClient, StartClient } from './chat_messages.ts'
import { showLife } from '../bridge/life.ts'
import { RemoteBlobs } from './blobs.ts'
import { LoadMeter } from './loading.ts'
import { blobsOf } from './manifest.ts'
import { failed, fetchText, Inbox, PythonBridge } from './python.ts'

const PACKAGES = ['jinja2'] // renders chat templates

const inbox = new Inbox()
const meter = new LoadMeter(report)
let take: ((message: PageToClient) => void) | null = null
const early: PageToClient[] = []

function report (message: ClientToPage): void {
  postMessage(message)
}

/** What kwaainet.browser.client sees as `bridge`. */
class Bridge extends PythonBridge {
  report (message: ClientToPage): void {
    if (message.type === 'progress') meter.python(message)
    else report(message)
  }

  /** Messages of the page, those that came before included. */
  onMessage (receiver: (message: PageToClient) => void): void {
    take = receiver
    for (const message of early.splice(0)) receiver(message)
  }
}

/** The manifest; the first and last layer are read while Python starts, as far as they are kept here. */
async function expectHead (url: string, blobs: RemoteBlobs): Promise<string> {
  const manifest = await fetchText(url, "the model's manifest")
  const all = blobsOf(manifest)
  blobs.expect(all, all.filter(({ block }) => block === null))
  return manifest
}

async function start ({ config, network }: StartClient): Promise<void> {
  await showLife()
  const { origin, model } = config
  if (model.text === undefined) throw new Error('this model has no tokenizer that is known here, so it cannot be talked to')
  report({ type: 'client-state', state: 'starting' })
  const blobs = RemoteBlobs.start(origin)
  const bridge = new Bridge(network, inbox, blobs, meter)
  const [python, manifest, text] = await Promise.all([
    bootPython(origin, PACKAGES, meter),
    expectHead(model.manifest, blobs),
    fetchText(model.text.url, "the model's tokenizer", model.text.integrity)
  ])
  const client = python.pyimport('kwaainet.browser.client') as PyProxy & { main: (bridge: Bridge, config: ClientConfig, manifest: string, text: string) => Promise<void> }
  await client.main(bridge, config, manifest, text)
}

function run (message: StartClient): void {
  start(message).then(
    () => { report({ type: 'stopped' }) },
    (error: unknown) => { report(failed(error)) }
  )
}

addEventListener('message', ({ data }: MessageEvent<PageToClient>) => {
  if (data.type === 'start-client') run(data)
  else if (data.type === 'network-gone') inbox.receive(data)
  else if (take === null) early.push(data)
  else take(data)
})
