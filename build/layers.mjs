// Which file of web/ may know which: the rules below, checked by dependency-cruiser.
// It sees no file at all when TypeScript is too new for it, so that is an error here.

import { cruise } from 'dependency-cruiser'
import extractTSConfig from 'dependency-cruiser/config-utl/extract-ts-config'

const only = (name, pattern, from) => ({
  name,
  comment: `${name}: imported in one file only`,
  severity: 'error',
  from: { pathNot: from },
  to: { path: pattern, dependencyTypesNot: ['type-only'] }
})

const ruleSet = {
  forbidden: [
    { name: 'page-knows-sdk-only', severity: 'error', from: { path: '^web/page/' }, to: { pathNot: '^web/(page|sdk)/' } },
    { name: 'sdk-knows-bridge-not-page', severity: 'error', from: { path: '^web/sdk/' }, to: { path: '^web/page/' } },
    { name: 'bridge-knows-no-worker', comment: 'but the messages, which are generated', severity: 'error', from: { path: '^web/bridge/' }, to: { path: '^web/(page|sdk|worker)/', pathNot: '^web/worker/((chat|node)_)?messages\\.ts$' } },
    { name: 'workers-know-no-page', severity: 'error', from: { path: '^web/worker/' }, to: { path: '^web/(page|sdk)/' } },
    { name: 'sdk-loads-no-worker-code', comment: 'what loads before the click is small', severity: 'error', from: { path: '^web/sdk/' }, to: { path: '^web/bridge/', pathNot: '^web/bridge/(rtc|faults|kept|foreign_worker|life)\\.ts$' } },
    { name: 'no-cycles', severity: 'error', from: {}, to: { circular: true, viaOnly: { dependencyTypesNot: ['type-only', 'dynamic-import'] } } },
    { name: 'no-orphans', severity: 'error', from: { orphan: true, pathNot: '\\.d\\.ts$|^web/sdk/embed\\.ts$' }, to: {} },
    only('libp2p', 'node_modules/(libp2p|@libp2p|@multiformats)/', '^(web/bridge/(host|relay_node)\\.ts|node_modules)'),
    only('pyodide', 'node_modules/pyodide/', '^(web/worker/boot\\.ts|node_modules)'),
    only('onnxruntime-web', 'node_modules/onnxruntime-', '^(web/bridge/(engine\\w*|ort)\\.ts|node_modules)')
  ]
}

const { output } = await cruise(['web'], {
  ruleSet,
  validate: true,
  doNotFollow: { path: 'node_modules' },
  exclude: { path: '^web/(dist|examples)' },
  tsPreCompilationDeps: 'specify',
  enhancedResolveOptions: { exportsFields: ['exports'], conditionNames: ['import', 'browser', 'default', 'types'] }
}, undefined, { tsConfig: extractTSConfig('tsconfig.json') })

const own = output.modules.filter(module => module.source.startsWith('web/')).length
for (const { rule, from, to } of output.summary.violations) console.error(`${rule.name}: ${from} -> ${to}`)
if (own < 10) console.error(`only ${own} files of web/ were seen: dependency-cruiser cannot read this TypeScript`)
console.log(`web layers: ${own} files, ${output.summary.totalDependenciesCruised} dependencies, ${output.summary.violations.length} violations`)
process.exitCode = own < 10 || output.summary.violations.length > 0 ? 1 : 0
