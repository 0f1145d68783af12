package v1alpha1

// ClassBatch is the class of work that can wait: it runs on what online services
// leave of their machines, and makes way for them. See LabelClass.
const ClassBatch = "batch"

// Resources of batch work. They are what is left of a machine by real use, not by
// requests; a container's limit of them is its request.
const (
	// ResourceBatchCPU is in thousandths of a core: 1500 is one and a half.
	ResourceBatchCPU = "neap.dev/batch-cpu"
	// ResourceBatchMemory is in bytes.
	ResourceBatchMemory = "neap.dev/batch-memory"
	// ResourceKubernetesBatchCPU and ResourceKubernetesBatchMemory are the same in
	// the words of Koordinator and Volcano, in the same units.
	ResourceKubernetesBatchCPU    = "kubernetes.io/batch-cpu"
	ResourceKubernetesBatchMemory = "kubernetes.io/batch-memory"
)

// PriorityClassBatch is the PriorityClass that admission gives to pods of the
// batch class: after everything else, evicting nobody.
const PriorityClassBatch = "neap-batch"

// What users say about a pod of the batch class, all of it optional.
const (
	// AnnotationBatchRunTime is how long the pod is expected to run, such as 45m.
	// Without it, it is what pods of the same owner took, else the policy's default.
	AnnotationBatchRunTime = "neap.dev/batch-run-time"
	// AnnotationBatchFreeze allows to freeze the pod, for so long at most, such as
	// 5m, before it is evicted. Its leases and connections must bear it.
	AnnotationBatchFreeze = "neap.dev/batch-freeze"
	// AnnotationBatchCheckpointedAt is when the job last saved its work, in RFC 3339:
	// an eviction loses what was done since. The job itself writes it; without it
	// all work since the start is lost.
	AnnotationBatchCheckpointedAt = "neap.dev/batch-checkpointed-at"
)

// What Neap writes on nodes about colocation. Nobody else may.
const (
	// AnnotationBatchCapacity is what batch pods may use there, now and in the hours
	// to come, in JSON. The controller writes it.
	AnnotationBatchCapacity = "neap.dev/batch-capacity"
	// AnnotationColocation is what the agent sees and does there, in JSON.
	AnnotationColocation = "neap.dev/colocation"
	// AnnotationProbe is what the node's kernel and hardware can do, in JSON. The
	// agent writes it.
	AnnotationProbe = "neap.dev/probe"
	// NodeConditionColocation is the type of the node's condition that says whether
	// batch work is held back there as it should be, and if not why.
	NodeConditionColocation = "NeapColocation"
)

// AgentLeasePrefix and the node's name are the name of the Lease that the agent of
// a node renews, in the namespace that Neap is installed in.
const AgentLeasePrefix = "neap-agent-"
