# The command `bench` with torch for a CPU. Build it after `python -m build`, which puts the wheel into dist/:
#   docker build --tag cast-bench .
#   docker run --rm --volume "$PWD:/work" cast-bench run --methods wanda
FROM python:3.12-slim
RUN useradd --create-home bench && install --directory --owner bench /work
COPY dist/*.whl /tmp/
RUN pip install --no-cache-dir --extra-index-url https://download.pytorch.org/whl/cpu /tmp/*.whl && rm /tmp/*.whl
USER bench
WORKDIR /work
ENTRYPOINT ["bench"]
