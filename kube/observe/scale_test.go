package observe_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/neap-dev/neap/core/bill"
	"github.com/neap-dev/neap/kube/observe"
	"github.com/neap-dev/neap/kube/observe/observetest"
)

// BenchmarkCluster reads and bills a day of 1,000 machines and 25,000 pods.
func BenchmarkCluster(b *testing.B) {
	s := observetest.New(b)
	born := now.AddDate(0, 0, -10)
	for i := range 1000 {
		s.Nodes = append(s.Nodes, observetest.Node(fmt.Sprintf("n%d", i), "big.8", born))
	}
	for i := range 25_000 {
		s.Pods = append(s.Pods, observetest.Pod("shop", fmt.Sprintf("p%d", i), fmt.Sprintf("app%d", i%500), fmt.Sprintf("n%d", i%1000), born, "250m", "1Gi"))
	}
	opts := options(nil)
	opts.Config.Host = s.URL
	opts.From = now.Add(-24 * time.Hour)
	for b.Loop() {
		snap, err := observe.Cluster(context.Background(), opts)
		if err != nil {
			b.Fatal(err)
		}
		err = snap.EachHour(context.Background(), func(h bill.Hour) error {
			_, err := bill.Close(h, snap.Book, bill.Options{})
			return err
		})
		if err != nil {
			b.Fatal(err)
		}
	}
}
