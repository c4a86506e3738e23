// Writes NAME.br beside each file, which the relay sends in its place to browsers that take it (all do, over https or locally).
//
//   node build/compress.mjs QUALITY FILE...

import { readFile, writeFile } from 'node:fs/promises'
import { promisify } from 'node:util'
import { brotliCompress, constants } from 'node:zlib'

const [quality, ...files] = process.argv.slice(2)
const params = { [constants.BROTLI_PARAM_QUALITY]: Number(quality), [constants.BROTLI_PARAM_LGWIN]: constants.BROTLI_MAX_WINDOW_BITS }
for (const file of files) await writeFile(`${file}.br`, await promisify(brotliCompress)(await readFile(file), { params }))
