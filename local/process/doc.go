// Package process starts a program that must never outlive the one that
// started it.
//
// Three things see to that, because each alone has a hole. The child leads a
// process group of its own, so that Ctrl-C on the terminal reaches only the
// parent, which then stops its children in order. The kernel signals the child
// when the parent dies (Linux; it watches the *thread* that forked, so one
// thread is kept for each child until it ends). And the child's standard input
// is a pipe whose other end only the parent has: [WatchParent], in the child,
// sees it close on every system and however the parent died.
//
// [Start] is where to enter.
package process
