// The public API of the tab's half.

export { askToKeep, type CacheEntry, cacheEntries, clearCache, forgetIdentity } from './cache.ts'
export { type Client, type ClientEvent, type ClientOptions, type ClientStatus, createClient } from './client.ts'
export { type ChatCompletion, type ChatCompletionChunk, CompletionError, type CompletionParams } from './completion.ts'
export type { Elsewhere, Limits, NodeEvents, NodeState, NodeStatus, Peer, PeerChange, Progress, Receipt, Storage, Work } from './events.ts'
export { createNode, type KwaaiNode, type NodeOptions } from './node.ts'
export { type Check, preflight, type Preflight } from './preflight.ts'
export { planThreads, type ThreadPlan } from './threads.ts'
export type { NodeEvent } from './tab.ts'
export type { PauseReason } from '../worker/node_messages.ts'
