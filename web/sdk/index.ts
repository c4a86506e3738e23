// The public API of the tab's half.

export { createNode, type Node, type NodeEvent, type NodeOptions } from './node.ts'
export { type Check, preflight, type Preflight } from './preflight.ts'
