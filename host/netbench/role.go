package netbench

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	callPort = ":7000"
	bulkPort = ":7001"
	answer   = 128 // bytes
)

// Calls is what load prints at its end.
type Calls struct {
	Sent, Failed               int
	P50Ms, P99Ms, P999Ms, Mean float64
	LateMs                     float64 // p99 of how late the generator itself was
}

// Role plays a part in its namespace until its standard input ends, which it does
// with the parent. It is what the children of [Run] call.
func Role(name string, args []string) error {
	done := make(chan struct{})
	go func() { io.Copy(io.Discard, os.Stdin); close(done) }()
	number := func(i int) float64 {
		if i >= len(args) {
			return 0
		}
		v, _ := strconv.ParseFloat(args[i], 64)
		return v
	}
	switch name {
	case "serve":
		return serve(done)
	case "sink":
		return sink(done)
	case "load":
		return load(done, number(0), int(number(1)), uint64(number(2)))
	case "bulk":
		return bulk(done, int(number(0)), int(number(1)))
	}
	return fmt.Errorf("role %q is not one of serve, sink, load, bulk", name)
}

// serve reads a length and as many bytes, and answers.
func serve(done <-chan struct{}) error {
	return accept(done, callPort, func(c net.Conn) {
		head, reply := make([]byte, 4), make([]byte, answer)
		for {
			if _, err := io.ReadFull(c, head); err != nil {
				return
			}
			if _, err := io.CopyN(io.Discard, c, int64(binary.LittleEndian.Uint32(head))); err != nil {
				return
			}
			if _, err := c.Write(reply); err != nil {
				return
			}
		}
	})
}

// sink counts what it receives, and prints the total every tenth of a second.
func sink(done <-chan struct{}) error {
	var mu sync.Mutex
	var total int64
	go func() {
		for range time.Tick(100 * time.Millisecond) {
			mu.Lock()
			fmt.Println(total)
			mu.Unlock()
		}
	}()
	return accept(done, bulkPort, func(c net.Conn) {
		buf := make([]byte, 256<<10)
		for {
			n, err := c.Read(buf)
			mu.Lock()
			total += int64(n)
			mu.Unlock()
			if err != nil {
				return
			}
		}
	})
}

func accept(done <-chan struct{}, port string, each func(net.Conn)) error {
	l, err := net.Listen("tcp", farAddress+port)
	if err != nil {
		return err
	}
	go func() { <-done; l.Close() }()
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		go func() { defer c.Close(); each(c) }()
	}
}

// load sends calls of so many bytes at Poisson times until its input ends.
func load(done <-chan struct{}, perSecond float64, bytes int, seed uint64) error {
	const connections = 64
	idle := make(chan net.Conn, connections)
	for range connections {
		c, err := net.Dial("tcp", farAddress+callPort)
		if err != nil {
			return err
		}
		idle <- c
	}
	message := make([]byte, 4+bytes)
	binary.LittleEndian.PutUint32(message, uint32(bytes))
	var mu sync.Mutex
	var took, late []float64
	failed := 0
	var wait sync.WaitGroup
	dice := rand.New(rand.NewPCG(seed, 1))
	fmt.Println("ready")
	for at := time.Now(); ; {
		at = at.Add(time.Duration(dice.ExpFloat64() / perSecond * float64(time.Second)))
		select {
		case <-done:
			wait.Wait()
			slices.Sort(took)
			slices.Sort(late)
			var sum float64
			for _, v := range took {
				sum += v
			}
			c := Calls{Sent: len(took), Failed: failed, P50Ms: quantile(took, 0.5), P99Ms: quantile(took, 0.99), P999Ms: quantile(took, 0.999), LateMs: quantile(late, 0.99)}
			if len(took) > 0 {
				c.Mean = sum / float64(len(took))
			}
			return json.NewEncoder(os.Stdout).Encode(c)
		case <-time.After(time.Until(at)):
		}
		intended := at
		behind := time.Since(at)
		wait.Go(func() {
			c := <-idle // who waits for a connection has been sent late, and that counts
			defer func() { idle <- c }()
			reply := make([]byte, answer)
			c.SetDeadline(time.Now().Add(10 * time.Second))
			_, err := c.Write(message)
			if err == nil {
				_, err = io.ReadFull(c, reply)
			}
			ms := float64(time.Since(intended)) / 1e6
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				failed++
				return
			}
			took, late = append(took, ms), append(late, float64(behind)/1e6)
		})
	}
}

// bulk sends as much as it can over so many streams, as packets of a priority.
func bulk(done <-chan struct{}, streams, priority int) error {
	block := make([]byte, 256<<10)
	for range streams {
		c, err := net.Dial("tcp", farAddress+bulkPort)
		if err != nil {
			return err
		}
		if priority != 0 {
			if err := setPriority(c.(*net.TCPConn), priority); err != nil {
				return err
			}
		}
		go func() {
			for {
				if _, err := c.Write(block); err != nil {
					return
				}
			}
		}()
	}
	fmt.Println("ready")
	<-done
	return nil
}

// quantile returns the q-th of sorted values, 0 of none.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}
