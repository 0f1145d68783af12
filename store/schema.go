package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// migrations bring a database from version i to i+1. What was released is never
// changed, only added to.
var migrations = []string{`
CREATE TABLE hours (
	hour      INTEGER PRIMARY KEY, -- start of the hour of UTC, seconds since 1970
	from_ns   INTEGER NOT NULL,    -- what the facts cover, nanoseconds since 1970
	to_ns     INTEGER NOT NULL,
	currency  TEXT NOT NULL,
	bill_nano INTEGER NOT NULL,
	state     TEXT NOT NULL CHECK (state IN ('whole', 'renaming', 'damaged')),
	reason    TEXT NOT NULL DEFAULT '', -- of the damage
	files     TEXT NOT NULL             -- JSON: name, size, sha256 of each
) STRICT;
CREATE TABLE hour_rollups (hour INTEGER PRIMARY KEY REFERENCES hours(hour), data BLOB NOT NULL) STRICT;
CREATE TABLE day_rollups  (day  INTEGER PRIMARY KEY, hours INTEGER NOT NULL, data BLOB NOT NULL) STRICT;

CREATE TABLE decisions (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	id      TEXT NOT NULL UNIQUE,
	at_ns   INTEGER NOT NULL,
	actor   TEXT NOT NULL,
	lever   TEXT NOT NULL,
	subject TEXT NOT NULL,
	data    TEXT NOT NULL -- JSON of the whole decision
) STRICT;
CREATE INDEX decisions_at ON decisions(at_ns);
CREATE TABLE realised (
	id    TEXT PRIMARY KEY REFERENCES decisions(id),
	at_ns INTEGER NOT NULL,
	nano  INTEGER NOT NULL -- saving per hour
) STRICT;
CREATE TRIGGER decisions_kept    BEFORE UPDATE ON decisions BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER decisions_stay    BEFORE DELETE ON decisions BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER realised_kept     BEFORE UPDATE ON realised  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;
CREATE TRIGGER realised_stay     BEFORE DELETE ON realised  BEGIN SELECT RAISE(ABORT, 'the ledger is append-only'); END;

CREATE TABLE events   (seq INTEGER PRIMARY KEY AUTOINCREMENT, data TEXT NOT NULL) STRICT;
CREATE TABLE features (module TEXT NOT NULL, position INTEGER NOT NULL, name TEXT NOT NULL, share_millis INTEGER NOT NULL,
	PRIMARY KEY (module, position)) STRICT;
CREATE TABLE types    (position INTEGER PRIMARY KEY, name TEXT NOT NULL, from_ns INTEGER NOT NULL, data TEXT NOT NULL) STRICT;
CREATE TABLE state    (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
`}

var (
	errNewer = errors.New("it was written by a newer neap")
	errOlder = errors.New("it was written by an older neap")
)

func (s *Store) version(ctx context.Context, db *sql.DB) (int, error) {
	var v int
	err := db.QueryRowContext(ctx, "PRAGMA user_version").Scan(&v)
	return v, err
}

func checkVersion(version int, reading bool) error {
	switch {
	case version > len(migrations):
		return fmt.Errorf("%w (format %d; this one knows %d)", errNewer, version, len(migrations))
	case reading && version < len(migrations):
		return fmt.Errorf("%w (format %d; this one reads %d)", errOlder, version, len(migrations))
	}
	return nil
}

func (s *Store) migrate(ctx context.Context) error {
	version, err := s.version(ctx, s.w)
	if err != nil {
		return err
	}
	if err := checkVersion(version, false); err != nil {
		return err
	}
	for ; version < len(migrations); version++ {
		err := s.write(ctx, func(tx *sql.Tx) error {
			if _, err := tx.ExecContext(ctx, migrations[version]); err != nil {
				return err
			}
			_, err := tx.ExecContext(ctx, fmt.Sprintf("PRAGMA user_version = %d", version+1))
			return err
		})
		if err != nil {
			return fmt.Errorf("bring it to format %d: %w", version+1, err)
		}
	}
	return nil
}

// write runs change in one transaction: all of it is durable when write
// returns nil, and none of it has happened otherwise.
func (s *Store) write(ctx context.Context, change func(*sql.Tx) error) error {
	if s.w == nil {
		return ErrReadOnly
	}
	if err := s.step("commit", dbName); err != nil {
		return err
	}
	tx, err := s.w.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := change(tx); err != nil {
		if rErr := tx.Rollback(); rErr != nil && !errors.Is(rErr, sql.ErrTxDone) {
			return errors.Join(err, rErr)
		}
		return err
	}
	return tx.Commit()
}
