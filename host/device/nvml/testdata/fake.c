/* A stand-in for libnvidia-ml.so.1 with the layouts of nvml.h: two GPUs, the second
   cut into two MIG instances. The variable FAKE_NVML says how it misbehaves. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct device { const char *uuid, *name; unsigned minor; unsigned long long total; int mig; } device;
typedef device *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;
typedef struct { char legacy[16]; unsigned domain, bus, device, vendor, subsystem; char busId[32]; } nvmlPciInfo_t;
typedef struct { unsigned pid; unsigned long long usedGpuMemory; unsigned gpuInstanceId, computeInstanceId; } nvmlProcessInfo_t;
typedef struct { nvmlDevice_t device; unsigned long long eventType, eventData; unsigned gpuInstanceId, computeInstanceId; } nvmlEventData_t;

static device gpus[] = {
	{"GPU-0", "Tesla T4", 1, 15360ULL << 20, 0},
	{"GPU-1", "NVIDIA A100-SXM4-40GB", 0, 40960ULL << 20, 1},
};
static device parts[] = {
	{"MIG-a", "NVIDIA A100-SXM4-40GB MIG 2g.10gb", 0, 9856ULL << 20, 0},
	{"MIG-b", "NVIDIA A100-SXM4-40GB MIG 1g.5gb", 0, 4864ULL << 20, 0},
};
static int looks, registered, events;

static int is(const char *what) { const char *e = getenv("FAKE_NVML"); return e && !strcmp(e, what); }
static int put(char *to, unsigned size, const char *s) { if (strlen(s) >= size) return 7; strcpy(to, s); return 0; }

int nvmlInit_v2(void) { if (is("hang")) for (;;) sleep(1); return is("unloaded") ? 9 : 0; }
const char *nvmlErrorString(int r) { return r == 9 ? "Driver Not Loaded" : r == 15 ? "GPU is lost" : "Unknown Error"; }
int nvmlSystemGetDriverVersion(char *v, unsigned n) { return put(v, n, "615.10.01"); }
int nvmlSystemGetCudaDriverVersion_v2(int *v) { *v = 13040; return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { looks++; *n = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned i, nvmlDevice_t *d) {
	if (is("lost") && i == 0) return 15;
	if (i > 1) return 2;
	*d = &gpus[i];
	return 0;
}
int nvmlDeviceGetUUID(nvmlDevice_t d, char *s, unsigned n) { return put(s, n, is("twins") ? "GPU-x" : d->uuid); }
int nvmlDeviceGetName(nvmlDevice_t d, char *s, unsigned n) { return put(s, n, is("nameless") ? "" : d->name); }
int nvmlDeviceGetMinorNumber(nvmlDevice_t d, unsigned *m) { if (d >= parts && d < parts + 2) return 3; *m = d->minor; return 0; }
int nvmlDeviceGetMemoryInfo(nvmlDevice_t d, nvmlMemory_t *m) { if (is("broken")) return 999; m->total = d->total; m->free = 1; m->used = d->total - 1; return 0; }
int nvmlDeviceGetPciInfo_v3(nvmlDevice_t d, nvmlPciInfo_t *p) { memset(p, 0xff, sizeof *p); return put(p->busId, 32, d == gpus ? "00000000:3B:00.0" : "00000000:AF:00.0"); }
int nvmlDeviceGetMigMode(nvmlDevice_t d, unsigned *now, unsigned *pending) { if (d == gpus) return 3; *now = *pending = d->mig; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t d, unsigned *n) { (void)d; *n = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t d, unsigned i, nvmlDevice_t *m) { (void)d; if (i > 1) return 6; *m = &parts[i]; return 0; }
int nvmlDeviceGetRemappedRows(nvmlDevice_t d, unsigned *c, unsigned *u, unsigned *p, unsigned *f) { (void)d; *c = *u = *p = 0; *f = is("remap"); return 0; }
int nvmlEventSetCreate(void **s) { *s = &events; return 0; }
int nvmlDeviceRegisterEvents(nvmlDevice_t d, unsigned long long types, void *s) { (void)d; if (types != 10 || s != &events) return 2; registered++; return 0; }
int nvmlEventSetWait_v2(void *s, nvmlEventData_t *e, unsigned ms) {
	(void)ms;
	if (s != &events || registered != 2 || events > 1) return 10;
	e->device = &gpus[0];
	e->eventType = 8;
	e->eventData = events++ ? 79 : 31; /* first a program's fault, then the GPU's */
	return is("xid") ? 0 : 10;
}
int nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *p) {
	unsigned i, have = d == gpus ? 20 : 0;
	if (*n < have) { *n = have; return 7; }
	for (i = 0; i < have; i++) { p[i].pid = 100 + i; p[i].usedGpuMemory = i == 19 ? ~0ULL : (i + 1ULL) << 20; p[i].gpuInstanceId = p[i].computeInstanceId = ~0U; }
	*n = have;
	return 0;
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(nvmlDevice_t d, unsigned *n, nvmlProcessInfo_t *p) {
	*n = d == gpus;
	p[0].pid = 100; p[0].usedGpuMemory = 5 << 20;
	return 0;
}
