// Command serve shows the page with the made-up fleet of servertest, for work
// on the page: its clock runs a minute in every second.
//
//	go run ./test/browser/serve            # then, in ui: npm run dev
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/neap-dev/neap/server"
	"github.com/neap-dev/neap/server/servertest"
)

func main() {
	addr := flag.String("addr", "127.0.0.1:8080", "where to listen")
	hours := flag.Int("hours", 48, "how many hours are closed at the start")
	still := flag.Bool("still", false, "stop the fleet's clock")
	flag.Parse()
	if err := run(*addr, *hours, *still); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(addr string, hours int, still bool) error {
	fleet, err := servertest.New(hours)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	if !still {
		go func() {
			for range time.Tick(time.Second) {
				if err := fleet.Advance(time.Minute); err != nil {
					fmt.Fprintln(os.Stderr, err)
				}
			}
		}()
	}
	fmt.Printf("http://%s/\n", listener.Addr())
	handler := server.New(server.Options{Store: fleet, Metrics: fleet, Live: fleet, Title: "Made-up fleet", Zone: servertest.Zone})
	return (&http.Server{Handler: handler, ReadHeaderTimeout: 10 * time.Second}).Serve(listener)
}
