// Package clusterdir is the data directory of a cluster on one machine: where
// each file lies, who may hold it, the certificates in it, and the identities
// made from them.
//
//	lock              held by the running neap-cluster; says its process id
//	ports.json        the API server's port, kept so that kubeconfigs stay valid
//	kubeconfig        the administrator
//	identities/       one kubeconfig for each component, with fewer rights
//	pki/              authorities, serving certificate, service-account key
//	etcd/             the cluster's state; nothing here ever deletes it
//	log/              one log a component, cut when it grows
//
// Every file is 0600 and every directory 0700: whoever reads them is the
// administrator. [Dir] is where to enter. Starting processes is not here.
package clusterdir
