// Errors that cross a MessagePort: by name, where each name is a class of kwaainet.errors.

import type { FaultName } from '../worker/messages.ts'

/** An error with the name it has on the Python side. */
export class FaultError extends Error {
  readonly fault: FaultName

  constructor (name: FaultName, message: string) {
    super(message)
    this.name = name
    this.fault = name
  }
}

export function fault (name: FaultName, message: string): FaultError {
  return new FaultError(name, message)
}

/** Any thrown value as a fault; what is not ours becomes `otherwise`. */
export function asFault (error: unknown, otherwise: FaultName): FaultError {
  if (error instanceof FaultError) return error
  return fault(otherwise, describe(error))
}

/** The text of any thrown value. */
export function describe (error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
