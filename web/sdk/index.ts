// The public API of the tab's half.

export { type Client, type ClientEvent, type ClientOptions, type ClientStatus, createClient } from './client.ts'
export { type ChatCompletion, type ChatCompletionChunk, CompletionError, type CompletionParams } from './completion.ts'
export { createNode, type Node, type NodeEvent, type NodeOptions } from './node.ts'
export { type Check, preflight, type Preflight } from './preflight.ts'
