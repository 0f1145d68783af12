// Package poolorder is a scheduler plugin that prefers machines of the pools
// that come first: those bought already before spare capacity elsewhere, and
// serverless capacity last, because it is paid by the pod.
//
// The order of a pool is decided elsewhere and written on its nodes as the
// label [Label]; the plugin only translates it to a score.
package poolorder

import (
	"context"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	fwk "k8s.io/kube-scheduler/framework"
)

// Name is what a scheduler configuration calls the plugin.
const Name = "PoolOrder"

// Label is on each node of an ordered pool: a whole number from 0, lowest
// first. A node without it, or with nonsense in it, counts as 0, so that the
// plugin changes nothing in a cluster that has no pools.
const Label = "neap.dev/pool-order"

// maxOrder bounds what a label may say, so that arithmetic on scores cannot
// overflow.
const maxOrder = 1 << 20

// PoolOrder is the plugin. It keeps no state.
type PoolOrder struct{}

var (
	_ fwk.ScorePlugin     = (*PoolOrder)(nil)
	_ fwk.ScoreExtensions = (*PoolOrder)(nil)
	_ fwk.SignPlugin      = (*PoolOrder)(nil)
)

// New makes the plugin; it has no arguments.
func New(context.Context, runtime.Object, fwk.Handle) (fwk.Plugin, error) {
	return &PoolOrder{}, nil
}

// Name implements [fwk.Plugin].
func (*PoolOrder) Name() string { return Name }

// Score implements [fwk.ScorePlugin]: the order itself, which NormalizeScore
// turns round.
func (*PoolOrder) Score(_ context.Context, _ fwk.CycleState, _ *v1.Pod, node fwk.NodeInfo) (int64, *fwk.Status) {
	return order(node.Node()), nil
}

// ScoreExtensions implements [fwk.ScorePlugin].
func (p *PoolOrder) ScoreExtensions() fwk.ScoreExtensions { return p }

// NormalizeScore implements [fwk.ScoreExtensions]. The first of the orders
// present gets the highest score and the last gets 0, evenly between; where
// all are equal, all get the highest.
func (*PoolOrder) NormalizeScore(_ context.Context, _ fwk.CycleState, _ *v1.Pod, scores fwk.NodeScoreList) *fwk.Status {
	if len(scores) == 0 {
		return nil
	}
	first, last := scores[0].Score, scores[0].Score
	for _, s := range scores {
		first, last = min(first, s.Score), max(last, s.Score)
	}
	for i := range scores {
		if first == last {
			scores[i].Score = fwk.MaxScore
		} else {
			scores[i].Score = fwk.MaxScore * (last - scores[i].Score) / (last - first)
		}
	}
	return nil
}

// SignPod implements [fwk.SignPlugin]: the score depends on nothing in the pod.
func (*PoolOrder) SignPod(context.Context, *v1.Pod) ([]fwk.SignFragment, *fwk.Status) {
	return nil, nil
}

func order(node *v1.Node) int64 {
	if node == nil {
		return 0
	}
	n, err := strconv.ParseInt(node.Labels[Label], 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return min(n, maxOrder)
}
