package psi

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// A Trigger is armed in the kernel until it is closed.
type Trigger struct {
	fd   int
	stop [2]int // a pipe: closing the trigger ends Wait
	path string
}

// Arm arms a trigger on a pressure file. Who arms it closes it.
func Arm(path string, at Threshold) (*Trigger, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, explain(path, &os.PathError{Op: "open", Path: path, Err: err})
	}
	kind := "some"
	if at.Full {
		kind = "full"
	}
	text := fmt.Sprintf("%s %d %d\x00", kind, at.Stall.Microseconds(), at.Window.Microseconds())
	if _, err := unix.Write(fd, []byte(text)); err != nil {
		unix.Close(fd)
		if errors.Is(err, unix.EINVAL) {
			return nil, fmt.Errorf("arm %s with %v in %v: the kernel refuses; windows are 500ms to 10s (multiples of 2s without CAP_SYS_RESOURCE), stalls shorter: %w", path, at.Stall, at.Window, err)
		}
		return nil, explain(path, &os.PathError{Op: "arm", Path: path, Err: err})
	}
	t := &Trigger{fd: fd, path: path}
	if err := unix.Pipe2(t.stop[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("arm %s: %w", path, err)
	}
	return t, nil
}

// Wait waits until the threshold is crossed, and returns nil then; the kernel
// tells it at most once a window. It returns the context's error when that ends,
// and ErrGone when the group is removed. One goroutine may wait at a time.
func (t *Trigger) Wait(ctx context.Context) error {
	end := context.AfterFunc(ctx, func() { unix.Write(t.stop[1], []byte{0}) })
	defer end()
	for {
		poll := []unix.PollFd{{Fd: int32(t.fd), Events: unix.POLLPRI}, {Fd: int32(t.stop[0]), Events: unix.POLLIN}}
		if _, err := unix.Poll(poll, -1); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %s: %w", t.path, err)
		}
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case poll[0].Revents&unix.POLLERR != 0:
			return fmt.Errorf("%s: %w", t.path, ErrGone)
		case poll[0].Revents&unix.POLLPRI != 0:
			return nil
		}
	}
}

// Close disarms the trigger. It must not be called while somebody waits: end the
// context of Wait first.
func (t *Trigger) Close() error {
	return errors.Join(unix.Close(t.fd), unix.Close(t.stop[0]), unix.Close(t.stop[1]))
}
