// Bundles the compliance page and its workers: node tests/browser/compliance/bundle.mjs FOLDER

import { readdir } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = dirname(fileURLToPath(import.meta.url))

/** The address of the one version of `name` that build/web.mjs has placed. */
async function placed (name) {
  const [version] = await readdir(join(here, '../../../web/dist', name))
  return JSON.stringify(`/${name}/${version}/`)
}

await build({
  entryPoints: {
    ...Object.fromEntries(['page', 'network', 'node', 'caller'].map(name => [name, `${here}/${name}.ts`])),
    thread: join(here, '../../../web/worker/thread.ts')
  },
  outdir: process.argv[2],
  bundle: true,
  define: { THREAD_WORKER: '"thread.js"', ORT: await placed('ort'), PYODIDE: await placed('pyodide') },
  splitting: true,
  format: 'esm',
  target: 'es2023',
  conditions: ['browser'],
  absWorkingDir: here,
  logLevel: 'warning'
})
