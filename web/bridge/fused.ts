// Steps of a block that are computed together: products of the same activations, and a gate with the products it is made of.
// Rule of the file: a block's results are what the steps one after another would give, to the bit; a buffer that only
// carries the second factor of a gate is not written.

import type { Kernels } from './kernel.ts'
import { MAX_PRODUCTS } from './jobs.ts'
import type { Step, Weight } from './program.ts'

export interface Part { weight: Weight, y: string, add: boolean }

/** `activation` as kernels number them where the first's y becomes activation(first) * second; else -1. */
export interface Products { op: 'products', x: string, parts: Part[], activation: number }

export type FusedStep = Exclude<Step, { op: 'matmul' }> | Products
type Gated = Extract<Step, { op: 'gated' }>

/** A block's steps, those together that can be. */
export function fuse (steps: Step[], kernels: Kernels): FusedStep[] {
  const fused: FusedStep[] = []
  let open: Products | null = null // what the next products may join
  for (const step of steps) {
    if (step.op === 'matmul') {
      if (open !== null && joins(step, open, kernels)) open.parts.push(step)
      else fused.push(open = { op: 'products', x: step.x, parts: [step], activation: -1 })
    } else if (step.op === 'bias' && open?.parts.some(({ y }) => y === step.y) === true) fused.push(step)
    else if (step.op === 'gated' && open !== null && fused.at(-1) === open && isGate(step, open, steps)) {
      open.activation = step.activation
      open = null
    } else {
      fused.push(step)
      open = null
    }
  }
  return fused
}

function joins (step: Part & { x: string }, { x, parts }: Products, kernels: Kernels): boolean {
  const alike = (rows: number): boolean => kernels.prepared_alike(parts[0]!.weight.type, step.weight.type, rows) !== 0
  const apart = parts.every(({ y }) => y !== step.y && y !== x)
  return step.x === x && parts.length < MAX_PRODUCTS && apart && alike(1) && alike(2)
}

function isGate ({ gate, up }: Gated, { parts }: Products, steps: Step[]): boolean {
  const [first, second] = parts
  if (first === undefined || second === undefined || parts.length > 2 || first.add || second.add) return false
  const named = steps.filter(step => Object.values(step).includes(up)).length
  return first.y === gate && second.y === up && first.weight.rows === second.weight.rows && named === 2
}
