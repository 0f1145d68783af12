package scaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
)

// record writes what was decided into the ledger, if it is new, and then into the
// status. A row's number is in the status, so that one written twice is one.
func (s *Scaler) record(ctx context.Context, p *v1alpha1.ElasticPolicy, st *state, seen *observation, said verdict) error {
	status := statusOf(seen, said, st)
	st.decisions = max(st.decisions, p.Status.Decisions)
	status.Decisions = st.decisions + 1
	if d, ok := row(seen, said, p.Status, status); ok && s.o.Ledger != nil {
		if err := s.o.Ledger.AppendDecision(ctx, d); err != nil {
			return fmt.Errorf("write the decision down: %w", err) // the next minute finds it still to be written
		}
		st.decisions++
	} else {
		status.Decisions = st.decisions
	}
	now := time.Now()
	if equality.Semantic.DeepEqual(p.Status, status) || same(p.Status, status) && now.Sub(st.written) < apart {
		return seen.ActErr
	}
	to := p.DeepCopy()
	to.Status = status
	if err := s.o.Client.Status().Patch(ctx, to, client.MergeFrom(p)); err != nil {
		return errors.Join(seen.ActErr, client.IgnoreNotFound(err))
	}
	st.written = now
	return seen.ActErr
}
