package store

import (
	"context"
	"database/sql"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite" // registers the driver

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/internal/dirlock"
)

// Options tune a [Store]. The zero value is right for production.
type Options struct {
	// Rebuild closes an hour again whose files turned out to be torn, from what
	// the caller still knows of it. nil, or an error, leaves the hour a gap. It
	// may use the store.
	Rebuild func(ctx context.Context, from, to time.Time) (bill.Facts, error)
	// MostFacts bounds the files that one [Store.Facts] may read, in bytes; 0 means
	// 128 MiB, which become about a gigabyte in memory.
	MostFacts int64
	// Log takes what is put right and what cannot be; nil means slog.Default.
	Log *slog.Logger
}

// A Store is one directory of facts, roll-ups and ledger. It is safe for
// concurrent use. Close it.
type Store struct {
	dir  string
	opts Options

	lock *dirlock.Lock // nil if reading only
	w    *sql.DB       // one connection; nil if reading only
	r    *sql.DB

	mu sync.Mutex // one hour is written at a time

	// fault stands in for a disk that fails, in tests: it is asked before every
	// step that changes a file.
	fault func(step, path string) error
}

// Errors that callers tell apart.
var (
	// ErrLocked says that another process writes the store.
	ErrLocked = dirlock.ErrHeld
	// ErrNoStore says that there is no store in the directory.
	ErrNoStore = errors.New("there is no store")
	// ErrDamaged says that a file is not what was written.
	ErrDamaged = errors.New("damaged")
	// ErrReadOnly says that the store was opened for reading.
	ErrReadOnly = errors.New("the store is open for reading only")
	// ErrTooMuch says that more was asked for than fits into memory.
	ErrTooMuch = errors.New("they do not fit into memory at once")
	// ErrFull says that the disk is full.
	ErrFull = syscall.ENOSPC
)

const dbName = "neap.db"

// Open opens the store in dir for writing, making it if need be. It finishes
// what a crash left half done, and indexes files that SQLite does not know.
func Open(dir string, opts Options) (*Store, error) {
	s := &Store{dir: dir, opts: opts}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, s.explain("open the store", err)
	}
	var err error
	if s.lock, err = dirlock.Acquire(dir); err != nil {
		if errors.Is(err, ErrLocked) {
			return nil, fmt.Errorf("open the store in %s: %w; stop it, or read the store with neap bill --store", dir, err)
		}
		return nil, s.explain("open the store", err)
	}
	if err := s.openWriter(); err != nil {
		return nil, errors.Join(err, s.Close())
	}
	return s, nil
}

func (s *Store) openWriter() error {
	path := filepath.Join(s.dir, dbName)
	if err := checkWhole(path); err != nil {
		return s.explain("open the store", err)
	}
	// The file is made here, so that nobody else may read it from the start.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return s.explain("open the store", err)
	}
	if err := f.Close(); err != nil {
		return s.explain("open the store", err)
	}
	s.w = open(path, "_pragma=busy_timeout(10000)&_pragma=journal_mode(WAL)&_pragma=synchronous(FULL)&_pragma=foreign_keys(1)&_txlock=immediate")
	s.w.SetMaxOpenConns(1)
	ctx := context.Background()
	if err := s.migrate(ctx); err != nil {
		return s.explain("open the store", err)
	}
	s.r = open(path, "_pragma=busy_timeout(10000)&_pragma=query_only(1)")
	s.r.SetMaxOpenConns(4)
	return s.recover(ctx)
}

// OpenRead opens the store in dir for reading, at the same time as others read
// and one process writes.
func OpenRead(dir string) (*Store, error) {
	s := &Store{dir: dir}
	path := filepath.Join(dir, dbName)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w in %s; run neap up to make one, or give the directory of another", ErrNoStore, dir)
	}
	if err := checkWhole(path); err != nil {
		return nil, s.explain("read the store", err)
	}
	s.r = open(path, "_pragma=busy_timeout(10000)&_pragma=query_only(1)")
	s.r.SetMaxOpenConns(4)
	version, err := s.version(context.Background(), s.r)
	if err != nil && s.unchanging(err) {
		// SQLite wants to write beside the file even to read it, unless it is told
		// that nobody changes it.
		err = s.r.Close()
		s.r = open(path, "mode=ro&immutable=1")
		s.r.SetMaxOpenConns(4)
		if err == nil {
			version, err = s.version(context.Background(), s.r)
		}
	}
	if err == nil {
		err = checkVersion(version, true)
	}
	if err != nil {
		return nil, errors.Join(s.explain("read the store", err), s.Close())
	}
	return s, nil
}

// unchanging reports whether SQLite failed because nothing may be written, and
// nobody else writes either: there is no log of changes.
func (s *Store) unchanging(err error) bool {
	var sErr *sqlite.Error
	if !errors.As(err, &sErr) || sErr.Code()&0xff != sqliteCantOpen && sErr.Code()&0xff != sqliteReadOnly {
		return false
	}
	st, err := os.Stat(filepath.Join(s.dir, dbName+"-wal"))
	return errors.Is(err, fs.ErrNotExist) || err == nil && st.Size() == 0
}

func open(path, params string) *sql.DB {
	abs, err := filepath.Abs(path)
	if err != nil {
		abs = path
	}
	u := url.URL{Scheme: "file", Path: abs, RawQuery: params}
	db, err := sql.Open("sqlite", u.String())
	if err != nil {
		panic(err) // only an unknown driver makes sql.Open fail
	}
	return db
}

// checkWhole tells a torn database from a whole one by its header, for SQLite
// would notice only when it needs a page that is not there.
func checkWhole(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || st.Size() == 0 {
		return err
	}
	var h [100]byte
	if _, err := f.ReadAt(h[:], 0); err != nil || string(h[:16]) != "SQLite format 3\x00" {
		return fmt.Errorf("%s is %w: it is not a database", path, ErrDamaged)
	}
	page, pages := int64(binary.BigEndian.Uint16(h[16:])), int64(binary.BigEndian.Uint32(h[28:]))
	if page == 1 {
		page = 65536
	}
	if want := page * pages; st.Size() < want {
		return fmt.Errorf("%s is %w: it has %d bytes and should have %d", path, ErrDamaged, st.Size(), want)
	}
	return nil
}

// Dir returns the store's directory.
func (s *Store) Dir() string { return s.dir }

// Close releases the directory.
func (s *Store) Close() error {
	var errs []error
	if s.r != nil {
		errs = append(errs, s.r.Close())
	}
	if s.w != nil {
		errs = append(errs, s.w.Close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Release())
		s.lock = nil
	}
	return errors.Join(errs...)
}

func (s *Store) log() *slog.Logger {
	if s.opts.Log != nil {
		return s.opts.Log
	}
	return slog.Default()
}

// SQLite's primary result codes that we tell apart.
const (
	sqliteBusy     = 5
	sqliteReadOnly = 8
	sqliteIOErr    = 10
	sqliteCorrupt  = 11
	sqliteFull     = 13
	sqliteCantOpen = 14
	sqliteNotADB   = 26
)

// explain turns an error into one sentence: what, where, what to do.
func (s *Store) explain(op string, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) || errors.As(err, new(*explained)) {
		return err
	}
	code := 0
	var sErr *sqlite.Error
	if errors.As(err, &sErr) {
		code = sErr.Code() & 0xff
	}
	full := errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || code == sqliteFull ||
		code == sqliteIOErr && s.diskFull()
	say := func(cause error, advice string) error {
		return &explained{fmt.Errorf("%s in %s: %w; %s", op, s.dir, cause, advice)}
	}
	switch {
	case full:
		return say(ErrFull, "free some space: nothing that was recorded is lost, and neap tries again")
	case code == sqliteCorrupt, code == sqliteNotADB:
		return say(fmt.Errorf("%s is %w (%s)", dbName, ErrDamaged, oneLine(err.Error())), damagedAdvice)
	case errors.Is(err, ErrDamaged):
		return say(err, damagedAdvice)
	case errors.Is(err, fs.ErrPermission), code == sqliteReadOnly, code == sqliteCantOpen:
		return say(err, "see whether the directory can be read and written by you")
	case errors.Is(err, syscall.EROFS):
		return say(err, "give a directory that can be written")
	case code == sqliteBusy:
		return say(ErrLocked, "try again")
	case errors.Is(err, errNewer):
		return say(err, "use a newer neap")
	case errors.Is(err, errOlder):
		return say(err, "start neap up once with it to bring it up to date")
	case errors.Is(err, ErrTooMuch):
		return say(err, "ask for a shorter time")
	case errors.Is(err, ErrReadOnly):
		return say(err, "open it for writing")
	}
	return &explained{fmt.Errorf("%s in %s: %w", op, s.dir, err)}
}

const damagedAdvice = "put back a copy of it, or move it away: closed hours are then read again from the Parquet files, but the ledger and the hour that is not closed yet are lost"

// An explained error is one that already is a sentence.
type explained struct{ error }

// Unwrap returns the cause.
func (e *explained) Unwrap() error { return e.error }

func (s *Store) diskFull() bool {
	var st syscall.Statfs_t
	return syscall.Statfs(s.dir, &st) == nil && int64(st.Bavail)*st.Bsize < 1<<20
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

func (s *Store) step(step, path string) error {
	if s.fault != nil {
		return s.fault(step, path)
	}
	return nil
}
