// Bundle web/ into web/dist: workers first, so that the page knows their versions.
// Every address with a hash in it may be cached for ever (a browser then keeps compiled code, too): ?v=HASH, a
// folder named by the hash of what it holds, a chunk-HASH. index.html is the one that may not.

import { createHash } from 'node:crypto'
import { mkdir, readdir, readFile, rm, writeFile, link, copyFile, stat } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { build } from 'esbuild'
import { WORDS } from '../web/page/words.ts'
import { API_VERSION } from '../web/sdk/origin.ts'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const DIST = join(ROOT, 'web', 'dist')
const ASSETS = join(DIST, 'assets')
const PYODIDE = join(ROOT, 'dist', 'pyodide')
const ORT = join(ROOT, 'node_modules', 'onnxruntime-web', 'dist')
const ORT_FILES = /^ort-wasm-simd-threaded\.(jspi\.|asyncify\.)?(mjs|wasm)$/

const COMMON = {
  bundle: true,
  splitting: true, // the engine's code is loaded by the node worker when it is wanted
  format: 'esm',
  target: 'es2023',
  minify: true,
  sourcemap: true,
  outdir: ASSETS,
  chunkNames: 'chunk-[hash]',
  absWorkingDir: ROOT,
  conditions: ['browser'],
  legalComments: 'none',
  logLevel: 'warning'
}

async function bundle (entry, define = {}) {
  const name = entry.match(/(\w+)\.ts$/)[1]
  await build({ ...COMMON, entryPoints: { [name]: entry }, define })
  const bytes = await readFile(join(ASSETS, `${name}.js`))
  return `/assets/${name}.js?v=${createHash('sha256').update(bytes).digest('hex').slice(0, 16)}`
}

/** The SDK for pages without a bundler, at addresses that stay: /sdk/index.js, element.js, define.js, python.js; /embed.js. */
async function bundleSdk () {
  const entries = Object.fromEntries(['index', 'element', 'define', 'python'].map(name => [name, `web/sdk/${name}.ts`]))
  await rm(join(DIST, 'sdk'), { recursive: true, force: true })
  await build({ ...COMMON, outdir: join(DIST, 'sdk'), entryPoints: entries })
  await build({ ...COMMON, splitting: false, format: 'iife', outdir: DIST, entryPoints: { embed: 'web/sdk/embed.ts' } })
}

/** What pages pin the scripts of other origins by (Subresource Integrity), in /integrity.json; that of embed.js. */
async function writeIntegrity () {
  const files = ['embed.js', ...(await readdir(join(DIST, 'sdk'))).filter(name => name.endsWith('.js')).sort().map(name => `sdk/${name}`)]
  const digests = await Promise.all(files.map(async file => [`/${file}`, `sha384-${createHash('sha384').update(await readFile(join(DIST, file))).digest('base64')}`]))
  await writeFile(join(DIST, 'integrity.json'), `${JSON.stringify(Object.fromEntries(digests), null, 1)}\n`)
  return digests[0][1]
}

/** The wheel for micropip: /wheels/NAME, and a package index (PEP 503) of it alone at /simple. */
async function placeWheel () {
  const [name] = (await readdir(join(ROOT, 'dist'))).filter(file => /^kwaainet-.*\.whl$/.test(file))
  if (name === undefined) throw new Error('dist/ holds no kwaainet wheel; run: make wheel')
  const digest = createHash('sha256').update(await readFile(join(ROOT, 'dist', name))).digest('hex')
  const index = join(DIST, 'simple', 'kwaainet')
  for (const folder of ['wheels', 'simple']) await rm(join(DIST, folder), { recursive: true, force: true })
  await mkdir(join(DIST, 'wheels'), { recursive: true })
  await mkdir(index, { recursive: true })
  await place(join(ROOT, 'dist', name), join(DIST, 'wheels', name))
  await writeFile(join(index, 'index.html'), `<!doctype html>\n<title>kwaainet</title>\n<a href="../../wheels/${name}#sha256=${digest}">${name}</a>\n`)
}

/** A hard link where the file system allows, for these files are big. */
async function place (from, to) {
  await rm(to, { force: true })
  await link(from, to).catch(async () => { await copyFile(from, to) })
}

/** The files of `from` into a folder named by what they hold, the only one in web/dist/`name`; its address. */
async function placeVersion (name, from, wanted) {
  const names = (await readdir(from)).filter(file => wanted.test(file)).sort()
  if (names.length === 0) throw new Error(`${from} holds nothing like ${wanted}; run: make setup`)
  const digest = createHash('sha256')
  for (const file of names) digest.update(`${file}\0`).update(await readFile(join(from, file)))
  const version = digest.digest('hex').slice(0, 16)
  await rm(join(DIST, name), { recursive: true, force: true })
  await mkdir(join(DIST, name, version), { recursive: true })
  for (const file of names) await place(join(from, file), join(DIST, name, version, file))
  return `/${name}/${version}/`
}

/** Bytes of each file as it is sent, for the tab to tell how much there is to load before it knows otherwise. */
async function sizesIn (folder) {
  const names = await readdir(folder)
  const sent = names.filter(name => !name.endsWith('.br') && name !== 'snapshot.json')
  return Object.fromEntries(await Promise.all(sent.map(async name => [name, (await stat(join(folder, names.includes(`${name}.br`) ? `${name}.br` : name))).size])))
}

/** The page with its words in it: they are to be read before any script has come. */
function worded (html) {
  return html.replaceAll(/\{(\w+)\}/g, (_, name) => {
    if (WORDS[name] === undefined) throw new Error(`index.html says {${name}}, which words.ts does not know`)
    return WORDS[name].replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('"', '&quot;')
  })
}

await rm(ASSETS, { recursive: true, force: true })
await mkdir(ASSETS, { recursive: true })
const folders = {
  ORT: JSON.stringify(await placeVersion('ort', ORT, ORT_FILES)),
  PYODIDE: JSON.stringify(await placeVersion('pyodide', PYODIDE, /./)),
  PYODIDE_SIZES: JSON.stringify(await sizesIn(PYODIDE)),
  SNAPSHOT: await readFile(join(PYODIDE, 'snapshot.json'), 'utf8')
}
const network = await bundle('web/worker/network.ts')
const store = { STORE_WORKER: JSON.stringify(await bundle('web/worker/store.ts')) }
const thread = await bundle('web/worker/thread.ts')
const node = await bundle('web/worker/node.ts', { ...folders, ...store, THREAD_WORKER: JSON.stringify(thread) })
const client = await bundle('web/worker/client.ts', { ...folders, ...store })
const page = await bundle('web/page/page.ts')
const frame = await bundle('web/sdk/embed_frame.ts')
await bundleSdk()
await placeWheel()
const integrity = await writeIntegrity()
await writeFile(join(DIST, 'workers.json'), JSON.stringify({ api: API_VERSION, network, node, client }))
const embed = await readFile(join(ROOT, 'web', 'sdk', 'embed.html'), 'utf8')
await writeFile(join(DIST, 'embed.html'), embed.replace('/assets/embed_frame.js?v=FRAME_VERSION', frame))
const html = worded(await readFile(join(ROOT, 'web', 'page', 'index.html'), 'utf8'))
const style = await readFile(join(ROOT, 'web', 'page', 'page.css'))
await writeFile(join(ASSETS, 'page.css'), style)
const styled = `/assets/page.css?v=${createHash('sha256').update(style).digest('hex').slice(0, 16)}`
await writeFile(join(DIST, 'index.html'), html.replace('/assets/page.js?v=PAGE_VERSION', page).replace('/assets/page.css?v=PAGE_STYLE', styled))
// What is loaded before the click is there compressed, too: the origin sends that to who takes it.
for (const file of [join(DIST, 'index.html'), join(ASSETS, 'page.css'), join(ASSETS, 'page.js')]) {
  await writeFile(`${file}.gz`, gzipSync(await readFile(file), { level: 9 }))
}
const sizes = await Promise.all((await readdir(ASSETS)).filter(name => name.endsWith('.js')).map(async name => `${name} ${Math.round((await stat(join(ASSETS, name))).size / 1024)} KiB`))
console.log(`embed.js: integrity="${integrity}"`)
console.log(`web/dist: ${sizes.join(', ')}`)
