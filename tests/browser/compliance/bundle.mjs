// Bundles the compliance page and its workers: node tests/browser/compliance/bundle.mjs FOLDER

import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

const here = dirname(fileURLToPath(import.meta.url))

await build({
  entryPoints: ['page', 'network', 'node', 'caller'].map(name => `${here}/${name}.ts`),
  outdir: process.argv[2],
  bundle: true,
  splitting: true,
  format: 'esm',
  target: 'es2023',
  conditions: ['browser'],
  absWorkingDir: here,
  logLevel: 'warning'
})
