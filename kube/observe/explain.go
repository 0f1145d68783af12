package observe

// Explain turns the failure of a request to the API server into one sentence:
// what, where, what to do. verb, group and resource are those of the request,
// such as "list", "apps" and "replicasets".
func Explain(err error, server, verb, group, resource string) error {
	return explain(err, server, verb, group, resource)
}
