package scaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// record writes what was decided into the ledger, if it is new, and then into the
// status. A row's number is in the status, so that one written twice is one.
func (s *Scaler) record(ctx context.Context, p *v1alpha1.ElasticPolicy, st *state, seen *observation, said verdict) error {
	was := p.Status
	if st.last != nil && st.last.Decisions > was.Decisions {
		was = *st.last // the cache has not seen our last write yet
	}
	status := statusOf(seen, said, st)
	status.Decisions = was.Decisions + 1
	d, ok := row(seen, said, was, status)
	if !ok {
		status.Decisions = was.Decisions
	} else if s.o.Ledger != nil {
		if err := s.o.Ledger.AppendDecision(ctx, d); err != nil {
			return fmt.Errorf("write the decision down: %w", err) // the next minute finds it still to be written
		}
	}
	now := time.Now()
	if equality.Semantic.DeepEqual(was, status) || same(was, status) && now.Sub(st.written) < apart {
		return seen.ActErr
	}
	if err := s.write(ctx, p, seen, said, st, status); err != nil {
		return errors.Join(seen.ActErr, client.IgnoreNotFound(err))
	}
	st.last, st.written = &status, now
	return seen.ActErr
}

// write puts the status in place. Others write into it, too: what they wrote
// meanwhile is read again and kept.
func (s *Scaler) write(ctx context.Context, p *v1alpha1.ElasticPolicy, seen *observation, said verdict, st *state, status v1alpha1.ElasticPolicyStatus) error {
	for try := 0; ; try++ {
		to := p.DeepCopy()
		to.Status = status
		err := s.o.Client.Status().Patch(ctx, to, client.MergeFromWithOptions(p, client.MergeFromWithOptimisticLock{}))
		if !apierrors.IsConflict(err) || try == 3 {
			return err
		}
		fresh := &v1alpha1.ElasticPolicy{}
		if err := s.o.Live.Get(ctx, client.ObjectKeyFromObject(p), fresh); err != nil {
			return err
		}
		if fresh.UID != p.UID || fresh.Generation != p.Generation {
			return nil // another policy by now: it is decided anew
		}
		on := *seen
		on.Policy = fresh
		decisions := status.Decisions
		status = statusOf(&on, said, st)
		status.Decisions = decisions
		p = fresh
	}
}
