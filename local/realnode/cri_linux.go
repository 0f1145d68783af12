package realnode

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A cri speaks to containerd as the kubelet does.
type cri struct {
	conn    *grpc.ClientConn
	runtime criv1.RuntimeServiceClient
}

// dial waits until containerd answers.
func dial(ctx context.Context, containerd *kept) (*cri, error) {
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	c := &cri{conn, criv1.NewRuntimeServiceClient(conn)}
	for {
		within, cancel := context.WithTimeout(ctx, 2*time.Second)
		status, err := c.runtime.Status(within, &criv1.StatusRequest{}, grpc.WaitForReady(true))
		cancel()
		if err == nil {
			ready := true
			for _, condition := range status.Status.Conditions {
				if ready = ready && condition.Status; !condition.Status {
					err = fmt.Errorf("%s: %s", condition.Type, condition.Message)
				}
			}
			if ready {
				return c, nil
			}
		}
		select {
		case <-ctx.Done():
			c.close()
			return nil, fmt.Errorf("containerd does not answer: %w", err)
		case err := <-containerd.gaveUp:
			c.close()
			return nil, err
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// removeAll stops and removes every pod of the node.
func (c *cri) removeAll(ctx context.Context) error {
	list, err := c.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list the node's pods: %w", err)
	}
	var errs []error
	for _, pod := range list.Items {
		if _, err := c.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			errs = append(errs, fmt.Errorf("stop the pod %s: %w", pod.Metadata.GetName(), err))
		}
		if _, err := c.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: pod.Id}); err != nil {
			errs = append(errs, fmt.Errorf("remove the pod %s: %w", pod.Metadata.GetName(), err))
		}
	}
	return errors.Join(errs...)
}

func (c *cri) close() { _ = c.conn.Close() }
