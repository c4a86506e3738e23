// The public API of the tab's half.

/**
 * Nodes that contribute this tab, clients that talk to the swarm, and what this browser keeps of models.
 * @module kwaainet-web
 */

export type { Abortable } from './abort.ts'
export { askToKeep, type CacheEntry, cacheEntries, clearCache, forgetIdentity } from './cache.ts'
export { type Client, type ClientEvent, type ClientOptions, type ClientState, type ClientStatus, type Create, createClient } from './client.ts'
export { type ChatCompletion, type ChatCompletionChunk, CompletionError, type CompletionParams, type FinishReason, type Usage } from './completion.ts'
export type { Backend, ConnectionKind, Elsewhere, Limits, NodeEvents, NodeState, NodeStatus, PauseReason, Peer, PeerChange, Progress, Receipt, Storage, Work } from './events.ts'
export { createNode, type KwaaiNode, type NodeOptions } from './node.ts'
export { type Check, preflight, type Preflight } from './preflight.ts'
export { Problem } from './problem.ts'
export { planThreads, type ThreadPlan } from './threads.ts'
export type { NodeEvent, TabOptions } from './tab.ts'
export type { Owner } from '../bridge/kept.ts'
export type { ChatMessage, HopReport } from '../worker/chat_messages.ts'
export type { IceServer, PeerReport } from '../worker/messages.ts'
