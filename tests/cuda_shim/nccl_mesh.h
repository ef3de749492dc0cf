/* Sockets between the workers of a communicator, and messages over them. */
#ifndef CUDA_SHIM_NCCL_MESH_H
#define CUDA_SHIM_NCCL_MESH_H

#include <atomic>
#include <cstddef>
#include <string>
#include <vector>

namespace shim_nccl
{

enum class Flow { blocked, done, lost };

class Mesh
{
      public:
	Mesh(int worker, int workers)
	    : rank(worker), n(workers), sockets_(static_cast<size_t>(workers), -1)
	{
	}
	~Mesh()
	{
		hang_up();
	}
	Mesh(const Mesh &) = delete;
	Mesh &operator=(const Mesh &) = delete;

	/*
	 * Blocks until all are connected, or `stop`, then false. devices[r] is that of worker r
	 * after it.
	 */
	bool connect(const std::string &name, int device, const std::atomic<bool> &stop,
		std::vector<int> &devices);

	/* Go on from *at towards `bytes`, and never wait. */
	Flow send(int to, const char *data, size_t bytes, size_t *at);
	Flow receive(int from, char *data, size_t bytes, size_t *at);

	/* A worker that leaves in good order says so; one that was aborted or killed does not. */
	void say_goodbye();
	bool has_vanished(int peer) const;
	void hang_up(); /* nothing may be sent or received any more */

	const int rank, n;

      private:
	std::vector<int> sockets_; /* by worker */
};

} /* namespace shim_nccl */

#endif
