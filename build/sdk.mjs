// Make the npm package kwaainet-web in a folder, and web/examples bundled against it beside it:
//
//   node build/sdk.mjs FOLDER                  (FOLDER/package, FOLDER/examples)
//   node build/sdk.mjs FOLDER --serve PORT     (and serve the examples: npm run examples)
//
// Rule of the file: the package is what web/sdk exports, in ES modules with declarations, and nothing of the relay's.

import { execFile } from 'node:child_process'
import { copyFile, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { dirname, join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { build, context } from 'esbuild'
import { compile as compileSvelte } from 'svelte/compiler'

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)))
const SDK = join(ROOT, 'web', 'sdk')
const EXAMPLES = join(ROOT, 'web', 'examples')
const ENTRIES = ['index', 'element', 'define']

/** The SDK's modules one by one, so that whoever bundles them drops what is not used, and their declarations. */
async function compile (folder) {
  const options = join(dirname(folder), 'tsconfig.json')
  await writeFile(options, JSON.stringify({
    extends: join(ROOT, 'tsconfig.json'),
    compilerOptions: {
      rootDir: join(ROOT, 'web'), outDir: folder, noEmit: false, declaration: true, rewriteRelativeImportExtensions: true, types: [join(ROOT, 'node_modules', '@webgpu', 'types')]
    },
    include: [],
    files: ENTRIES.map(name => join(SDK, `${name}.ts`))
  }))
  await promisify(execFile)(process.execPath, [join(ROOT, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', options], { cwd: ROOT })
  await rm(options)
  for (const file of await readdir(folder, { recursive: true })) {
    if (!file.endsWith('.d.ts')) continue // whose imports tsc leaves as they are
    const text = await readFile(join(folder, file), 'utf8')
    await writeFile(join(folder, file), text.replace(/(from |import\()(['"])(\.[^'"]*)\.ts\2/g, '$1$2$3.js$2'))
  }
}

function describe (version) {
  const entry = name => ({ types: `./sdk/${name}.d.ts`, default: `./sdk/${name}.js` })
  return {
    name: 'kwaainet-web',
    version,
    description: 'Contribute a browser tab to a swarm that serves language models, or talk to the models it serves.',
    license: 'MIT',
    type: 'module',
    sideEffects: ['./sdk/define.js'],
    exports: { '.': entry('index'), './element': entry('element'), './define': entry('define') },
    types: './sdk/index.d.ts'
  }
}

async function makePackage (folder) {
  await mkdir(folder, { recursive: true })
  const { version } = JSON.parse(await readFile(join(ROOT, 'package.json'), 'utf8'))
  await compile(folder)
  await writeFile(join(folder, 'package.json'), `${JSON.stringify(describe(version), null, 2)}\n`)
  await copyFile(join(SDK, 'package.md'), join(folder, 'README.md'))
  await copyFile(join(ROOT, 'LICENSE'), join(folder, 'LICENSE'))
}

/** Svelte's components as JavaScript. */
const SVELTE = {
  name: 'svelte',
  setup ({ onLoad }) {
    onLoad({ filter: /\.svelte$/ }, async ({ path }) => {
      const { js, warnings } = compileSvelte(await readFile(path, 'utf8'), { filename: path, generate: 'client', css: 'injected' })
      return { contents: js.code, warnings: warnings.map(({ message }) => ({ text: message })) }
    })
  }
}

async function makeExamples (folder, sdk) {
  for (const name of await readdir(EXAMPLES)) {
    const from = join(EXAMPLES, name)
    const files = await readdir(from)
    await mkdir(join(folder, name), { recursive: true })
    const html = await readFile(join(from, 'index.html'), 'utf8')
    await writeFile(join(folder, name, 'index.html'), html.replace('main.jsx', 'main.js')) // as it is bundled
    const script = files.find(file => file.startsWith('main.'))
    if (script === undefined) continue
    await build({
      absWorkingDir: ROOT,
      entryPoints: [join(from, script)],
      outfile: join(folder, name, 'main.js'),
      bundle: true,
      format: 'esm',
      minify: true,
      jsx: 'automatic',
      conditions: ['browser', 'production'],
      plugins: [SVELTE],
      alias: { 'kwaainet-web/define': join(sdk, 'sdk', 'define.js'), 'kwaainet-web': join(sdk, 'sdk', 'index.js') },
      define: { 'process.env.NODE_ENV': '"production"', __VUE_OPTIONS_API__: 'false', __VUE_PROD_DEVTOOLS__: 'false', __VUE_PROD_HYDRATION_MISMATCH_DETAILS__: 'false' },
      logLevel: 'warning'
    })
  }
}

/** Until interrupted, on this machine only. */
async function serve (folder, port) {
  const server = await (await context({})).serve({ servedir: folder, host: '127.0.0.1', port })
  for (const name of await readdir(EXAMPLES)) console.log(`http://localhost:${server.port}/${name}/`)
}

const [target, flag, port] = process.argv.slice(2)
if (target === undefined || (flag !== undefined && flag !== '--serve')) throw new Error('usage: node build/sdk.mjs FOLDER [--serve PORT]')
const folder = resolve(target)
await rm(folder, { recursive: true, force: true })
await mkdir(folder, { recursive: true })
await makePackage(join(folder, 'package'))
await makeExamples(join(folder, 'examples'), join(folder, 'package'))
if (flag === '--serve') await serve(join(folder, 'examples'), Number(port))
