// What went wrong, as a code with its parts: whoever shows it can say it in the reader's language.
// Rule of the file: `message` is for developers, in English; nothing but `code` and `values` needs translation.

/** An error that can be told apart: `code` is one of ours (in kebab-case) or a class of kwaainet.errors; `values` are its parts. */
export class Problem extends Error {
  readonly code: string
  readonly values: Readonly<Record<string, string>>

  constructor (code: string, message: string, values: Readonly<Record<string, string>> = {}) {
    super(message)
    this.code = code
    this.values = values
  }
}

/** `error` as it came if it is a Problem already. */
export function problemOf (error: unknown): Problem {
  if (error instanceof Problem) return error
  return new Problem(error instanceof Error ? error.name : 'Error', error instanceof Error ? error.message : String(error))
}
