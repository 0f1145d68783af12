package cgroup

import (
	"encoding/binary"
	"errors"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
)

func (m *machine) boot() string { return bootID() }

// lease opens a file to take leases on it.
func (m *machine) lease(name string) (lease, error) {
	fd, err := unix.Open(m.root+name, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: m.root + name, Err: err}
	}
	return &fileLease{fd}, nil
}

// A fileLease is the kernel's lease on an open file. When somebody else opens it,
// the kernel holds them, and sends SIGIO to this process.
type fileLease struct{ fd int }

func (l *fileLease) take() error {
	_, err := unix.FcntlInt(uintptr(l.fd), unix.F_SETLEASE, unix.F_WRLCK)
	return err
}

func (l *fileLease) broken() bool {
	kind, err := unix.FcntlInt(uintptr(l.fd), unix.F_GETLEASE, 0)
	return err != nil || kind != unix.F_WRLCK
}

func (l *fileLease) give() error {
	_, err := unix.FcntlInt(uintptr(l.fd), unix.F_SETLEASE, unix.F_UNLCK)
	if errors.Is(err, unix.EAGAIN) { // the kernel took it: it waits no longer than fs.lease-break-time
		return nil
	}
	return err
}

func (l *fileLease) read() (string, error) {
	var buf [64]byte
	n, err := unix.Pread(l.fd, buf[:], 0)
	return string(buf[:max(n, 0)]), err
}

func (l *fileLease) write(text string) error {
	_, err := unix.Pwrite(l.fd, []byte(text), 0)
	return err
}

func (l *fileLease) close() error { return unix.Close(l.fd) }

// inotify hears of files and of leases that are asked back.
type inotify struct {
	root    string
	file    *os.File
	heard   chan event
	signals chan os.Signal
	end     chan struct{}
	done    sync.WaitGroup

	mu    sync.Mutex
	names map[int32]string
	ids   map[string]int32
}

func (m *machine) watch() (watch, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("inotify_init1", err)
	}
	w := &inotify{root: m.root, file: os.NewFile(uintptr(fd), "inotify"), heard: make(chan event, 64),
		signals: make(chan os.Signal, 1), end: make(chan struct{}), names: map[int32]string{}, ids: map[string]int32{}}
	signal.Notify(w.signals, unix.SIGIO)
	w.done.Go(w.relay)
	w.done.Go(w.listen)
	return w, nil
}

func (w *inotify) events() <-chan event { return w.heard }

// relay tells of signals.
func (w *inotify) relay() {
	for {
		select {
		case <-w.signals:
			w.tell(event{})
		case <-w.end:
			return
		}
	}
}

func (w *inotify) tell(e event) {
	select {
	case w.heard <- e:
	case <-w.end:
	}
}

// listen tells of files.
func (w *inotify) listen() {
	buf := make([]byte, 4096)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return
		}
		for at := 0; at+unix.SizeofInotifyEvent <= n; {
			id := int32(binary.NativeEndian.Uint32(buf[at:]))
			mask := binary.NativeEndian.Uint32(buf[at+4:])
			at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			w.mu.Lock()
			name := w.names[id]
			if mask&unix.IN_IGNORED != 0 {
				delete(w.names, id)
				if w.ids[name] == id {
					delete(w.ids, name)
				}
			}
			w.mu.Unlock()
			if name == "" {
				continue
			}
			if mask&unix.IN_MODIFY != 0 {
				w.tell(event{name})
			}
		}
	}
}

func (w *inotify) add(name string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, ok := w.ids[name]; ok {
		return nil
	}
	id, err := unix.InotifyAddWatch(int(w.fd()), w.root+name, unix.IN_MODIFY)
	if err != nil {
		return os.NewSyscallError("inotify_add_watch", err)
	}
	w.names[int32(id)], w.ids[name] = name, int32(id)
	return nil
}

func (w *inotify) remove(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if id, ok := w.ids[name]; ok {
		unix.InotifyRmWatch(int(w.fd()), uint32(id))
		delete(w.ids, name)
		delete(w.names, id)
	}
}

// fd returns the descriptor without making the file blocking, as Fd would.
func (w *inotify) fd() (fd uintptr) {
	if c, err := w.file.SyscallConn(); err == nil {
		c.Control(func(d uintptr) { fd = d })
	}
	return fd
}

func (w *inotify) close() error {
	signal.Stop(w.signals)
	close(w.end)
	err := w.file.Close()
	w.done.Wait()
	return err
}
