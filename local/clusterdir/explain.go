package clusterdir

import "strings"

// DiskFull is what a user is told of a disk that filled up under a cluster.
const DiskFull = "the disk is full: free some space and start again; everything acknowledged is still there"

// Explain says what an error of etcd or the API server means to a user, from
// its text, which is all that a library's panic leaves. The sentence is empty
// when there is nothing better than the text itself.
func Explain(text string) (Cause, string) {
	has := func(parts ...string) bool {
		for _, p := range parts {
			if strings.Contains(text, p) {
				return true
			}
		}
		return false
	}
	switch {
	case has("no space left on device", "disk quota exceeded", "database space exceeded"):
		return CauseDisk, DiskFull
	case has("crc mismatch", "checksum error", "invalid database", "file is corrupt", "wal: file not found", "wal: max entry size", "snap: empty snapshot",
		"unexpected EOF", "failed to recover v3 backend", "failed to read WAL", "failed to open database", "version mismatch", "freelist:", "walpb:", "cannot use none as id"):
		return CauseCorrupt, "the cluster's state in the folder etcd of the data directory cannot be read and was left as it is: restore a copy, or move that folder away to begin with an empty cluster"
	}
	return CauseOther, ""
}
