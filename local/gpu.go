package local

import (
	"context"
	"fmt"
	"strconv"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/neap-dev/neap/api/v1alpha1"
	"github.com/neap-dev/neap/core/money"
	"github.com/neap-dev/neap/host/agent"
	"github.com/neap-dev/neap/server"
)

// surveyed is told that the GPUs were surveyed at a moment of the day.
func (u *up) surveyed(at time.Time) {
	status := u.control.GPUs
	u.live.set(func(l *live) { l.gpus = status.View })
	if !u.live.passing() {
		return // the fleet is not complete
	}
	if err := u.surveys.record(at, status.WriteMetrics); err != nil {
		u.out.problem(fmt.Errorf("keep the survey of the GPUs at %s: %w", u.stamp(at), err))
	}
}

// passing says whether the day passes, or has passed.
func (l *live) passing() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state != "starting"
}

// agents is what the agents of simulated machines speak to the API server with.
func (u *up) agents() (client.Client, error) {
	cfg, err := u.cluster.ConfigOf("fleet")
	if err != nil {
		return nil, err
	}
	cfg.QPS, cfg.Burst = -1, -1
	c, err := client.New(cfg, client.Options{Scheme: agent.Scheme()})
	if err != nil {
		return nil, fmt.Errorf("connect to the API server as the fleet: %w", err)
	}
	return c, nil
}

// GPUs implements [server.Live].
func (l *live) GPUs(context.Context) (server.GPUs, error) {
	l.mu.Lock()
	view := l.gpus
	l.mu.Unlock()
	if view == nil {
		return server.GPUs{}, nil
	}
	v := view()
	out := server.GPUs{Survey: v.Survey, Currency: v.Currency}
	for i := range v.Plans {
		out.Plans = append(out.Plans, shownPlan(&v.Plans[i]))
	}
	return out, nil
}

func shownPlan(p *v1alpha1.RepackPlan) server.GPUPlan {
	s := &p.Status
	out := server.GPUPlan{
		Name: p.Name, Goal: string(p.Spec.Goal), Mode: string(p.Spec.Mode), Phase: string(s.Phase), Reason: s.Reason,
		Moves: []server.GPUMove{}, Freed: []string{}, PeakGPUs: "0", LostSeconds: float64(s.LostServingSeconds),
	}
	if s.Freed != nil {
		out.Freed = append(out.Freed, s.Freed.Names...)
		out.FreedNano, _ = money.Parse(string(s.Freed.PerHour)) // 0 where a price is not known
	}
	if s.Before != nil && s.Peak != nil {
		out.PeakGPUs = strconv.Itoa(int(max(0, s.Peak.GPUs-s.Before.GPUs)))
		out.PeakMachines = int(max(0, s.Peak.Machines-s.Before.Machines))
	}
	for i := range s.Moves {
		m := &s.Moves[i]
		out.Moves = append(out.Moves, server.GPUMove{
			Pod: m.Pod, From: m.From.Machine, FromDevices: m.From.Devices, To: m.To.Machine, ToDevices: m.To.Devices,
			Milli: m.Milli, MemoryMiB: m.MemoryMiB, Seconds: float64(m.LoadSeconds), State: string(m.State), Message: m.Message,
		})
	}
	return out
}
