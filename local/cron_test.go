package local_test

import (
	"testing"

	"github.com/neap-dev/neap/local"
	"github.com/neap-dev/neap/local/controlplane/clustertest"
)

// From the label on a pod template to the pod on a virtual node, through the
// CronJob controller, admission, the releaser, the scheduler and a provider that
// refuses what comes too fast.
func TestCronJobsStartOnTheServerlessPoolAtItsPace(t *testing.T) {
	clustertest.Need(t)
	t.Parallel() // it mostly waits, and holds nothing to a figure that a busy machine moves
	b, err := local.MeasureCron(t.Context(), local.MeasureOptions{Log: t.Logf}, local.CronOptions{CronJobs: 100, Due: 60, Cold: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%+v", b)
	if b.Started != 60 || b.Serverless != 60 || b.Twice != 0 {
		t.Errorf("%d of 60 CronJobs started, %d on the serverless pool, %d twice", b.Started, b.Serverless, b.Twice)
	}
	if b.OnMachines != 0 || b.Refused != 0 {
		t.Errorf("%d pods are on machines and %d were refused, want none", b.OnMachines, b.Refused)
	}
	if b.OnlineReadyDuring < b.OnlineReadyBefore {
		t.Errorf("%d online pods were ready during the burst, %d before", b.OnlineReadyDuring, b.OnlineReadyBefore)
	}
}
