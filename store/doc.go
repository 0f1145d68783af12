// Package store keeps what Neap must not lose in one directory: the facts of
// closed hours as Parquet files that anyone can read, and in SQLite the index of
// those files, their roll-ups, the ledger of decisions, the journal's events,
// the catalogue and small state. docs/format/store.md describes the files.
//
// # Promises
//
// What a method said was recorded survives the death of the process and of the
// machine. An hour is recorded whole or not at all. Every file is checked
// against the length and SHA-256 that SQLite keeps of it before a byte of it is
// believed: a torn file is rebuilt if [Options.Rebuild] can, and else set aside
// and shown as a gap, never read in part. A full disk is one clear error, and
// nothing recorded is lost by it.
//
// One process writes ([Open]); any number may read at the same time
// ([OpenRead]).
//
// Reports by module, namespace, pool, machine type and feature come from the
// roll-ups and are equal, with ==, to those from the facts.
package store
