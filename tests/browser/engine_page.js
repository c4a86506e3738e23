// Runs the Engine port's compliance suite in this page: the engine's code comes as text, all else from the origin.
// Answers how many checks passed; a check that fails throws with its Python traceback.
async (code, backend, threads) => {
  const module = URL.createObjectURL(new Blob([code], { type: 'text/javascript' }))
  const { createEngine } = await import(module)
  const { loadPyodide } = await import(`${location.origin}/pyodide/pyodide.mjs`)
  const python = await loadPyodide({ indexURL: `${location.origin}/pyodide/`, convertNullToNone: true })
  await python.loadPackage(['kwaainet'], { messageCallback: () => {} })
  const engine = await createEngine({ backend, threads, ortUrl: `${location.origin}/ort/` })
  const { BrowserEngine } = python.pyimport('kwaainet.browser.engine')
  const compliance = python.pyimport('kwaainet.testing.engine_compliance')
  return await compliance.check_all(() => BrowserEngine(engine))
}
