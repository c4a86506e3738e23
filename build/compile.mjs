// Compiles the Python in zip files (wheels, the standard library) into others of the same names, by the very interpreter that will
// run them: a tab then loads byte code and compiles nothing.
//
//   node build/compile.mjs PYODIDE_FOLDER TARGET_FOLDER FILE...
//
// A module's .pyc takes the place of its .py, which Python reads as it would a module without source. The same
// bytes come every time: dates are fixed, and byte code is bound to no source file.

import { readFile, writeFile } from 'node:fs/promises'
import { basename, join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const PROGRAM = `
import importlib._bootstrap_external as external
import importlib.util
import re
import zipfile

def compiled(name, data):
    code = compile(data, name, "exec", dont_inherit=True)
    return external._code_to_hash_pyc(code, importlib.util.source_hash(data), False)

def convert(source, target, unwanted):
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as new:
        for entry in old.infolist():
            name = entry.filename
            if entry.is_dir() or name.endswith(".dist-info/RECORD") or re.search(unwanted, name):
                continue
            data = old.read(name)
            if name.endswith(".py"):
                name, data = name + "c", compiled(name, data)
            new.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)

convert
`
// What nothing in a tab imports: stubs, tests, what builds extensions, our native half, old protocols and tools.
const UNWANTED = [
  String.raw`\.(pyi|h|a|pxd)$`,
  '^numpy/(f2py|_pyinstaller|(.*/)?tests)/',
  // ... and what numpy itself imports only when asked for it: tests in a tab bring the whole
  '^numpy/(random|fft|polynomial|testing|doc|core|conftest|matlib)(/|\\.py$)',
  '^numpy/linalg/lapack_lite',
  '^kwaainet/native/',
  '^(_pyrepl|idlelib|multiprocessing|pydoc_data|unittest|wsgiref|xml|xmlrpc)/',
  String.raw`^(_aix_support|bdb|doctest|ftplib|imaplib|mailbox|optparse|pdb|poplib|profile|pstats|pydoc|smtplib|webbrowser)\.py$`
].join('|')

const [folder, target, ...files] = process.argv.slice(2)
const { loadPyodide } = await import(pathToFileURL(resolve(folder, 'pyodide.mjs')).href)
const python = await loadPyodide({ indexURL: resolve(folder) })
const convert = python.runPython(PROGRAM)
for (const file of files) {
  const source = `/tmp/${basename(file)}`
  python.FS.writeFile(source, await readFile(file))
  convert(source, `${source}.compiled`, UNWANTED)
  await writeFile(join(target, basename(file)), python.FS.readFile(`${source}.compiled`))
}
