// The interpreter as it is when all that a tab imports has been imported: its memory, written down at set-up by
// build/snapshot.mjs, laid over a fresh one here, in a tenth of the time that importing takes.
// Follows Pyodide's snapshots (src/js/snapshot.ts), which know no compiled libraries: those are linked here, before
// the interpreter runs and in one order, so that they lie where they lay when the memory was written down.
// Rule of the file: shared by set-up and tab; memory is laid over nothing whose layout is not the written one.

/** A library by its path in the interpreter's file system, and the file it comes from. */
export interface Library { path: string, file: string }

/** What is beside the memory: its bytes, with Pyodide's header, and what must agree. */
export interface SnapshotIndex { file: string, bytes: number, layout: string, libraries: Library[] }

/** What is used of Emscripten's module, which Pyodide does not type. */
export interface EmscriptenModule {
  HEAPU8: Uint8Array
  HEAPU32: Uint32Array
  wasmTable: WebAssembly.Table
  preloadedWasm: Record<string, unknown>
  addRunDependency: (name: string) => void
  removeRunDependency: (name: string) => void
  loadWebAssemblyModule: (module: WebAssembly.Module, flags: object, name: string, scope: object) => Promise<unknown>
  loadDynamicLibrary: (name: string, flags: object, scope: object) => Promise<unknown>
  growMemory: (bytes: number) => void
  _emscripten_get_sbrk_ptr: () => number
}

/** A library while, or after, it is compiled. */
export interface CompiledLibrary { path: string, compiled: Promise<WebAssembly.Module> }

export interface EmscriptenSettings { preRun: Array<(module: EmscriptenModule) => void> }
export type CreateModule = (settings: EmscriptenSettings) => Promise<EmscriptenModule>

/** `create`, but for the compiled `libraries`, which are linked before the interpreter runs; `linked` hears the layout. */
export function withLibraries (
  create: CreateModule, libraries: CompiledLibrary[], linked: (layout: string) => void
): CreateModule {
  return async settings => {
    let failure: unknown
    settings.preRun.push(module => {
      module.addRunDependency('libraries')
      link(module, libraries)
        .catch((error: unknown) => { failure = error })
        .finally(() => { module.removeRunDependency('libraries') })
    })
    const module = await create(settings)
    if (failure !== undefined) throw failure
    return module
  }

  async function link (module: EmscriptenModule, all: CompiledLibrary[]): Promise<void> {
    const flags = { loadAsync: true, global: false, nodelete: true }
    for (const { path, compiled } of all) {
      module.preloadedWasm[path] = await module.loadWebAssemblyModule(await compiled, flags, path, {})
      await module.loadDynamicLibrary(path, flags, {})
    }
    linked(layoutOf(module))
  }
}

/** `withLibraries`, ready to have the memory that `index` tells of laid over it, once it is `filled`. Raises where it does not fit. */
export function restoring (create: CreateModule, index: SnapshotIndex, libraries: CompiledLibrary[], filled: Promise<void>): CreateModule {
  return async settings => {
    let layout = ''
    const module = await withLibraries(create, libraries, found => { layout = found })(settings)
    if (layout !== index.layout) throw new Error(`this runtime lays it out otherwise: ${layout}, not ${index.layout}`)
    performance.mark('interpreter linked')
    await filled
    if (module.HEAPU8.length < index.bytes) module.growMemory(index.bytes)
    performance.mark('memory fetched')
    return module
  }
}

/** Where the libraries ended: what is linked later, and all that Python makes, lies behind. */
function layoutOf (module: EmscriptenModule): string {
  return `table ${module.wasmTable.length}, memory ${module.HEAPU32[module._emscripten_get_sbrk_ptr() >> 2]}`
}
